//! Options that say who pushes, and what is left of the rights: for the command of a key in `authorized_keys`.

use std::collections::BTreeSet;

use clap::Args;
use treegraft_object::RefPattern;
use treegraft_server::rights::{Action, Caller, KeyName, PushLimits};

/// Who pushes, and what the configuration's rights are narrowed to.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Rights of the key")]
#[expect(clippy::struct_excessive_bools, reason = "each is an option that is given or not")]
pub(crate) struct CallerArgs {
    /// Name of the key, for the rules of the server's configuration
    #[arg(long = "as", value_name = "NAME")]
    name: Option<KeyName>,
    /// Allow only refs that begin like this, `*` standing for any characters but `/`: `app/org.gnome.*`
    #[arg(long, value_name = "PATTERN")]
    allow_ref: Vec<RefPattern>,
    /// Refuse pushes that keep the commit's checksum (`--exact`)
    #[arg(long)]
    deny_exact: bool,
    /// Refuse to drop commits from a ref (`--force`)
    #[arg(long)]
    deny_force: bool,
    /// Refuse commits that are older than the head (`--allow-older`)
    #[arg(long)]
    deny_older: bool,
    /// Refuse to write the refs under other collection ids (`--extra-collection-id`)
    #[arg(long)]
    deny_mirrors: bool,
    /// Refuse to change a ref's subsets (`--subset`, or `xa.subsets` of the commit)
    #[arg(long)]
    deny_subsets: bool,
    /// Refuse to change the type of token that clients need (`--token-type`, or `xa.token-type` of the commit)
    #[arg(long)]
    deny_token_type: bool,
    /// Most bytes in one push
    #[arg(long, value_name = "BYTES")]
    max_push_bytes: Option<u64>,
    /// Most objects in one push
    #[arg(long, value_name = "N")]
    max_push_objects: Option<u64>,
    /// Largest content object in bytes, compressed
    #[arg(long, value_name = "BYTES")]
    max_object_bytes: Option<u64>,
}

impl From<CallerArgs> for Caller {
    fn from(args: CallerArgs) -> Self {
        let flags = [
            (Action::Exact, args.deny_exact),
            (Action::Force, args.deny_force),
            (Action::Older, args.deny_older),
            (Action::Mirrors, args.deny_mirrors),
            (Action::Subsets, args.deny_subsets),
            (Action::TokenType, args.deny_token_type),
        ];
        let denied = flags.iter().filter(|(_, is_given)| *is_given).map(|(action, _)| *action);
        let bound = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        Self {
            key: args.name,
            only_refs: args.allow_ref,
            denied: denied.collect::<BTreeSet<_>>(),
            limits: PushLimits {
                push_bytes: bound(args.max_push_bytes),
                push_objects: bound(args.max_push_objects),
                object_bytes: bound(args.max_object_bytes),
            },
            takes_only_dry_runs: false,
        }
    }
}

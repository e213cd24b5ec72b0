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

impl CallerArgs {
    /// Writes the options down again.
    pub(crate) fn command_line(&self) -> Vec<String> {
        let mut line = Vec::new();
        let mut option = |name: &str, value: Option<String>| line.extend(value.map(|value| format!("{name}={value}")));
        option("--as", self.name.as_ref().map(ToString::to_string));
        for pattern in &self.allow_ref {
            option("--allow-ref", Some(pattern.to_string()));
        }
        let number = |limit: Option<u64>| limit.map(|limit| limit.to_string());
        option("--max-push-bytes", number(self.max_push_bytes));
        option("--max-push-objects", number(self.max_push_objects));
        option("--max-object-bytes", number(self.max_object_bytes));
        let denied = self.denied().map(|action| format!("--deny-{}", action.word()));
        line.extend(denied);
        line
    }

    fn denied(&self) -> impl Iterator<Item = Action> {
        let flags = [
            (Action::Exact, self.deny_exact),
            (Action::Force, self.deny_force),
            (Action::Older, self.deny_older),
            (Action::Mirrors, self.deny_mirrors),
            (Action::Subsets, self.deny_subsets),
            (Action::TokenType, self.deny_token_type),
        ];
        flags.into_iter().filter(|(_, is_given)| *is_given).map(|(action, _)| action)
    }
}

impl From<CallerArgs> for Caller {
    fn from(args: CallerArgs) -> Self {
        let denied = args.denied().collect::<BTreeSet<_>>();
        let bound = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        Self {
            key: args.name,
            only_refs: args.allow_ref,
            denied,
            limits: PushLimits {
                push_bytes: bound(args.max_push_bytes),
                push_objects: bound(args.max_push_objects),
                object_bytes: bound(args.max_object_bytes),
            },
            takes_only_dry_runs: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        caller: CallerArgs,
    }

    #[test]
    fn what_is_written_down_means_the_same() {
        let line = "--as=gnome-ci --allow-ref=app/org.gnome.* --allow-ref=os --max-push-bytes=1 --max-push-objects=2 \
                    --max-object-bytes=3 --deny-exact --deny-force --deny-older --deny-mirrors --deny-subsets \
                    --deny-token-type";
        let caller = |words: Vec<String>| {
            let line = Line::try_parse_from(["x".to_owned()].into_iter().chain(words)).expect("it is valid");
            (line.caller.command_line(), Caller::from(line.caller))
        };
        let (again, all) = caller(line.split_whitespace().map(str::to_owned).collect());
        assert_eq!(again.join(" "), line.split_whitespace().collect::<Vec<_>>().join(" "), "every option is there");
        assert_eq!(caller(again).1, all, "and means the same");
        let denied: BTreeSet<_> = Action::ALL.into_iter().filter(|action| *action != Action::Rebase).collect();
        assert_eq!(all.denied, denied, "every action but the first can be denied");
        assert_eq!(caller(Vec::new()), (Vec::new(), Caller::anybody()), "no option takes nothing away");
    }
}

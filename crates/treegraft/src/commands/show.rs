//! `treegraft show`: everything about a commit.

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use treegraft_object::{
    CommitId, DirMetaId, DirTreeId, detached,
    gvariant::{Dict, Variant},
};
use treegraft_repo::Find;

use crate::{
    cli::GlobalArgs,
    error::CommandError,
    exit::Exit,
    human, revision,
    ui::{Out, Ui},
    variant_text,
};

const EXAMPLES: &str = "\
Example:

  treegraft show --repo /srv/repo app/org.example.App/x86_64/stable";

/// Show everything about a commit: its texts, its metadata, its signatures
///
/// REF is a ref, a commit's checksum or at least six of its first digits; `^` behind it stands for its parent.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ShowArgs {
    /// Ref or commit
    #[arg(value_name = "REF")]
    revision: String,
}

#[derive(Debug, Serialize)]
struct Document {
    commit: CommitId,
    parent: Option<CommitId>,
    timestamp_secs: u64,
    subject: String,
    body: String,
    root_tree: DirTreeId,
    root_meta: DirMetaId,
    is_partial: bool,
    metadata: Value,
    detached_metadata: Value,
    signatures: Vec<Signatures>,
}

#[derive(Debug, Serialize)]
struct Signatures {
    kind: &'static str,
    count: usize,
}

pub(crate) fn run(ui: Ui, global: &GlobalArgs, args: &ShowArgs) -> Result<Exit, CommandError> {
    let repo = global.open_repo()?;
    let id = revision::resolve(&repo, &args.revision)?;
    let commit = repo.commit(id)?;
    let detached_metadata = repo.detached_metadata(id)?.unwrap_or_default();
    let signatures = signatures(&detached_metadata);
    let is_partial = repo.is_partial(id)?;
    if ui.is_json() {
        ui.json(&Document {
            commit: id,
            parent: commit.parent,
            timestamp_secs: commit.timestamp_secs,
            subject: commit.subject,
            body: commit.body,
            root_tree: commit.root_tree,
            root_meta: commit.root_meta,
            is_partial,
            metadata: variant_text::dict_to_json(&commit.metadata),
            detached_metadata: variant_text::dict_to_json(&detached_metadata),
            signatures,
        })?;
        return Ok(Exit::Done);
    }
    let mut out = ui.stdout();
    out.line(format_args!("commit {id}"))?;
    if let Some(parent) = commit.parent {
        out.line(format_args!("Parent:      {parent}"))?;
    }
    out.line(format_args!("Date:        {}", human::date(commit.timestamp_secs)))?;
    out.line(format_args!("Root:        {}.dirtree", commit.root_tree))?;
    out.line(format_args!("             {}.dirmeta", commit.root_meta))?;
    let told = match &signatures[..] {
        [] => "none".to_owned(),
        all => all.iter().map(|s| format!("{} {}", s.count, s.kind)).collect::<Vec<_>>().join(", "),
    };
    out.line(format_args!("Signatures:  {told}"))?;
    if is_partial {
        out.line("Partial:     the tree may be incomplete here")?;
    }
    for text in [&commit.subject, &commit.body].into_iter().filter(|text| !text.trim().is_empty()) {
        out.line("")?;
        for line in text.trim_end().lines() {
            out.line(format_args!("    {line}"))?;
        }
    }
    write_dict(&mut out, "Metadata", commit.metadata.iter())?;
    let others = detached_metadata.iter().filter(|(key, _)| !detached::SIGNATURE_KEYS.contains(key));
    write_dict(&mut out, "Detached metadata", others)?;
    out.finish()?;
    Ok(Exit::Done)
}

/// Counts the signatures of each kind.
fn signatures(detached_metadata: &Dict) -> Vec<Signatures> {
    let count = |key| detached_metadata.get(key).and_then(Variant::as_byte_arrays).map_or(0, |all| all.len());
    let kinds = [("ostree.gpgsigs", "gpg"), ("ostree.sign.ed25519", "ed25519"), ("ostree.sign.spki", "spki")];
    kinds
        .into_iter()
        .map(|(key, kind)| Signatures { kind, count: count(key) })
        .filter(|signatures| signatures.count > 0)
        .collect()
}

/// Writes keys and values. A value of several lines stands below its key.
fn write_dict<'d>(
    out: &mut Out,
    title: &str,
    entries: impl Iterator<Item = (&'d str, &'d Variant)>,
) -> Result<(), CommandError> {
    for (index, (key, value)) in entries.enumerate() {
        if index == 0 {
            out.line(format_args!("\n{title}:"))?;
        }
        let text = variant_text::to_text(value);
        if text.contains('\n') {
            out.line(format_args!("  {key}:"))?;
            for line in text.lines() {
                out.line(format!("      {line}").trim_end())?;
            }
        } else {
            out.line(format!("  {key}: {text}").trim_end())?;
        }
    }
    Ok(())
}

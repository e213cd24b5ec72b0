//! What a push has done, as text and as JSON.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use treegraft_object::{Checksum, CommitId, ObjectKind};
use treegraft_push::{Destination, Outcome, PlannedObject, PushOptions};
use treegraft_wire::{GraftMode, PublishedRef, Purpose, Resumed};

use crate::{
    error::CommandError,
    human,
    ui::{Out, Ui},
};

/// A push that is over.
pub(crate) struct Finished<'o> {
    pub(crate) destination: &'o Destination,
    pub(crate) options: &'o PushOptions,
    pub(crate) outcome: &'o Outcome,
    pub(crate) took: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Status {
    /// The refs are published.
    Published,
    /// There was nothing to publish.
    Unchanged,
    /// Nothing was sent.
    DryRun,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum RefStatus {
    New,
    Updated,
    Unchanged,
}

#[derive(Debug, Serialize)]
struct Document<'o> {
    status: Status,
    destination: String,
    refs: Vec<RefRow<'o>>,
    compared_objects: u64,
    sent_objects: u64,
    sent_bytes: u64,
    /// The bytes of the objects that the server did not have, as it stores them.
    stored_bytes: u64,
    /// How many of the sent objects went as what is new in them.
    sent_in_parts: u64,
    already_there_objects: u64,
    resumed: Resumed,
    duration_secs: f64,
    attempts: u32,
    notes: &'o [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    planned: Option<Planned>,
}

#[derive(Debug, Serialize)]
struct RefRow<'o> {
    name: &'o str,
    status: RefStatus,
    old: Option<CommitId>,
    /// The commit that the ref has now. A dry run cannot know it when the server makes a new one.
    new: Option<CommitId>,
}

#[derive(Debug, Serialize)]
struct Planned {
    total: u64,
    bytes: u64,
    objects: Vec<PlannedRow>,
}

#[derive(Debug, Serialize)]
struct PlannedRow {
    kind: &'static str,
    checksum: Checksum,
    /// Nothing when it is not known before it is compressed.
    bytes: Option<u64>,
}

impl Finished<'_> {
    /// Writes the result.
    pub(crate) fn write(&self, ui: Ui) -> Result<(), CommandError> {
        if ui.is_json() {
            return ui.json(&self.document());
        }
        let mut out = ui.stdout();
        self.write_text(ui, &mut out, "")?;
        out.finish()?;
        for note in &self.outcome.notes {
            ui.note(note);
        }
        Ok(())
    }

    /// Writes the result as text, each line behind `indent`.
    pub(crate) fn write_text(&self, ui: Ui, out: &mut Out, indent: &str) -> Result<(), CommandError> {
        for line in self.ref_lines(ui) {
            out.line(format_args!("{indent}{line}"))?;
        }
        match self.status() {
            Status::Unchanged => out.line(format_args!("{indent}Nothing to publish: the server has it already")),
            Status::Published => out.line(format_args!("{indent}{}", self.sent_line())),
            Status::DryRun => self.write_plan(ui, out),
        }
    }

    fn status(&self) -> Status {
        let refs = &self.outcome.refs;
        if refs.iter().all(|row| ref_status(row) == RefStatus::Unchanged) {
            Status::Unchanged
        } else if self.options.purpose == Purpose::DryRun {
            Status::DryRun
        } else {
            Status::Published
        }
    }

    /// Tells whether the commits that the refs will have are known.
    fn are_new_commits_known(&self) -> bool {
        self.options.purpose == Purpose::Push || self.options.mode == GraftMode::Exact
    }

    fn document(&self) -> Document<'_> {
        let outcome = self.outcome;
        let row = |row: &'_ PublishedRef| (ref_status(row), row.old, row.new);
        Document {
            status: self.status(),
            destination: self.destination.to_string(),
            refs: outcome
                .refs
                .iter()
                .map(|published| {
                    let (status, old, new) = row(published);
                    let is_known = self.are_new_commits_known() || status == RefStatus::Unchanged;
                    RefRow { name: published.name.as_str(), status, old, new: Some(new).filter(|_| is_known) }
                })
                .collect(),
            compared_objects: outcome.compared_objects,
            sent_objects: outcome.sent_objects,
            sent_bytes: outcome.sent_bytes,
            stored_bytes: outcome.stored_bytes,
            sent_in_parts: outcome.sent_in_parts,
            already_there_objects: outcome.already_there_objects,
            resumed: outcome.resumed,
            duration_secs: (self.took.as_secs_f64() * 1000.0).round() / 1000.0,
            attempts: outcome.attempts,
            notes: &outcome.notes,
            planned: (self.options.purpose == Purpose::DryRun).then(|| planned(&outcome.planned)),
        }
    }

    fn ref_lines(&self, ui: Ui) -> Vec<String> {
        let shown = |id: CommitId| if ui.is_verbose() { id.to_string() } else { human::short(id.0) };
        let refs = &self.outcome.refs;
        let width = refs.iter().map(|row| row.name.as_str().chars().count()).max().unwrap_or(0);
        let line = |row: &PublishedRef| {
            let new =
                if self.are_new_commits_known() { shown(row.new) } else { format!("graft of {}", shown(row.new)) };
            let change = match (ref_status(row), row.old) {
                (RefStatus::Unchanged, _) => format!("unchanged ({})", shown(row.new)),
                (_, Some(old)) => format!("{} → {new}", shown(old)),
                (_, None) => format!("new → {new}"),
            };
            format!("{:width$}  {change}", row.name.as_str())
        };
        refs.iter().map(line).collect()
    }

    fn sent_line(&self) -> String {
        let outcome = self.outcome;
        format!(
            "Sent {} of {}, {}, in {}{} ({} {} already there)",
            human::count(outcome.sent_objects),
            human::things(outcome.compared_objects.max(outcome.sent_objects), "object"),
            if outcome.sent_in_parts > 0 {
                format!("{} for {}", human::bytes(outcome.sent_bytes), human::bytes(outcome.stored_bytes))
            } else {
                human::bytes(outcome.sent_bytes)
            },
            human::duration(self.took),
            if outcome.attempts > 1 { format!(" and {} attempts", outcome.attempts) } else { String::new() },
            human::count(self.outcome.already_there_objects),
            if self.outcome.already_there_objects == 1 { "was" } else { "were" },
        )
    }

    fn write_plan(&self, ui: Ui, out: &mut Out) -> Result<(), CommandError> {
        let objects = &self.outcome.planned;
        if ui.is_verbose() {
            for PlannedObject { name, bytes } in objects {
                let bytes = bytes.map_or_else(|| "?".to_owned(), human::count);
                out.line(format_args!("{:8} {} {bytes:>12}", name.kind.extension(), name.checksum))?;
            }
        }
        let known_bytes = objects.iter().filter_map(|object| object.bytes).sum();
        let is_exact = objects.iter().all(|object| object.bytes.is_some());
        let mut kinds: BTreeMap<ObjectKind, u64> = BTreeMap::new();
        for object in objects {
            *kinds.entry(object.name.kind).or_default() += 1;
        }
        let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{} {kind}", human::count(*count))).collect();
        out.line(format_args!(
            "Dry run: would send {} of {}{}{} ({} already there)",
            human::count(objects.len() as u64),
            human::things(self.outcome.compared_objects, "object"),
            if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) },
            match (known_bytes, is_exact) {
                (0, false) => String::new(),
                (bytes, true) => format!(", {}", human::bytes(bytes)),
                (bytes, false) => format!(", more than {}", human::bytes(bytes)),
            },
            human::count(self.outcome.already_there_objects),
        ))
    }
}

fn ref_status(row: &PublishedRef) -> RefStatus {
    match row.old {
        None => RefStatus::New,
        Some(old) if old == row.new => RefStatus::Unchanged,
        Some(_) => RefStatus::Updated,
    }
}

fn planned(objects: &[PlannedObject]) -> Planned {
    let row = |object: &PlannedObject| PlannedRow {
        kind: object.name.kind.extension(),
        checksum: object.name.checksum,
        bytes: object.bytes,
    };
    Planned {
        total: objects.len() as u64,
        bytes: objects.iter().filter_map(|object| object.bytes).sum(),
        objects: objects.iter().map(row).collect(),
    }
}

//! `treegraft demo`: a whole life of a repository on one machine.

use std::{
    fmt, fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use clap::Args;
use treegraft_object::{Commit, CommitId, ObjectName, gvariant::Variant};
use treegraft_push::{Attempt, Destination, Outcome, PushOptions, Source};
use treegraft_repo::{Find, Repo, fsck, summary};
use treegraft_sign::{Ed25519Key, ed25519};

use super::push::{awaited::Awaited, carry, report::Finished};
use crate::{
    cli::GlobalArgs,
    environment::random_bytes,
    error::CommandError,
    exit::Exit,
    human,
    progress::PushProgress,
    runtime,
    ui::{Format, Out, Ui},
};

mod build;

/// The ref that is published.
const REF: &str = "demo/x86_64/stable";

const EXAMPLES: &str = "\
Example:

  treegraft demo --keep";

/// Show a push, a graft and the signatures on this machine
///
/// Two builds on two workers that know nothing of each other are pushed to one server's repository, all in a temporary
/// directory. Nothing else has to be installed, and nothing outside of the directory is touched. The commands that would
/// do the same are shown before each step.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Leave the directory for a look at it
    #[arg(long)]
    keep: bool,
}

/// A file of the demonstration could not be used.
#[derive(Debug, thiserror::Error)]
#[error("Could not {action} `{path}`", path = path.display())]
struct DemoError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// What was published is not what it must be.
#[derive(Debug, thiserror::Error)]
#[error("The demonstration went wrong: {0}")]
struct Wrong(String);

pub(crate) fn run(ui: Ui, global: &GlobalArgs, args: &DemoArgs) -> Result<Exit, CommandError> {
    global.refuse_repo("it works in a temporary directory")?;
    if ui.is_json() {
        return Err(CommandError::usage("The demonstration is for people; there is no JSON of it")
            .hint("every other command writes JSON with `--json`"));
    }
    let folder = tempfile::Builder::new()
        .prefix("treegraft-demo-")
        .tempdir()
        .map_err(|source| failure("make a directory in", &std::env::temp_dir(), source))?;
    Stage { ui, root: folder.path(), out: ui.stdout() }.play()?;
    let mut out = ui.stdout();
    if args.keep {
        let kept = folder.keep();
        out.line(format_args!("\nEverything is still there: cd {}", kept.display()))?;
    } else {
        out.line("\nThe directory is removed now; `treegraft demo --keep` leaves it for a look.")?;
    }
    out.finish()?;
    Ok(Exit::Done)
}

/// Where the demonstration happens and what it says.
struct Stage<'s> {
    ui: Ui,
    root: &'s Path,
    out: Out,
}

impl Stage<'_> {
    fn play(mut self) -> Result<(), CommandError> {
        self.say(format_args!("Treegraft publishes builds from short-lived workers to a server that stays."))?;
        self.say(format_args!("All of this happens in {}", self.root.display()))?;
        let key = self.set_up_server()?;
        let first = self.push_build(&build::FIRST)?;
        let second = self.push_build(&build::SECOND)?;
        self.show_history(first, second)?;
        self.check(&key, second)?;
        self.tell_how_to_pull(&key)?;
        self.out.finish()
    }

    /// Makes the server's repository, its key and its configuration.
    fn set_up_server(&mut self) -> Result<Ed25519Key, CommandError> {
        self.step("A server gets a repository and a key that never leaves it")?;
        self.command("treegraft init server/repo")?;
        let repo = Repo::init(&self.root.join("server/repo"), None)?;
        let key = Ed25519Key::generate(random_bytes().map_err(CommandError::temporary)?);
        let (key_file, config_file) = (self.root.join("server/ed25519.key"), self.root.join("server/server.toml"));
        write_secret(&key_file, format!("{}\n", key.secret_base64().as_str()).as_bytes())?;
        let config = format!(
            "[[repository]]\npath = {path:?}\ned25519-key-files = [{key_file:?}]\n",
            path = repo.path().display().to_string(),
            key_file = key_file.display().to_string(),
        );
        fs::write(&config_file, &config).map_err(|source| failure("write", &config_file, source))?;
        self.command("cat server/server.toml")?;
        for line in config.lines() {
            let shown = line.replace(&format!("{}/", self.root.display()), "");
            self.say(format_args!("  {shown}"))?;
        }
        Ok(key)
    }

    /// Makes a build in a worker's repository that is empty before, and pushes it.
    fn push_build(&mut self, build: &build::Build) -> Result<CommitId, CommandError> {
        self.step(build.title)?;
        let worker = self.root.join(build.worker);
        self.command(&format!(
            "ostree --repo={} commit --branch={REF} --subject={:?} build",
            build.worker, build.subject
        ))?;
        let commit = build::commit(&worker, REF, build)?;
        self.say(format_args!(
            "  {} built from {}",
            human::short(commit.0),
            human::things(build.files.len() as u64, "file")
        ))?;
        self.command(&format!("treegraft push --repo {} --config server/server.toml server/repo", build.worker))?;
        let outcome = self.push(&worker)?;
        let published = outcome.refs.first().ok_or_else(|| wrong("nothing was published"))?;
        Ok(published.new)
    }

    fn push(&mut self, worker: &Path) -> Result<Outcome, CommandError> {
        let (path, config) = (self.root.join("server/repo"), self.root.join("server/server.toml"));
        let source = Source::open(worker, &[])?;
        let options = PushOptions::default();
        let started = Instant::now();
        // The steps of so small a push would only be noise.
        let quiet = Ui::new(Format::Text, crate::ui::Verbosity::Quiet, self.ui.environment());
        let progress: Arc<PushProgress> = PushProgress::start(quiet, path.display().to_string());
        let receiver = carry::local_receiver(&path, Some(&config))?;
        let (source, attempt) = (Awaited::ready(source), Attempt::only(progress));
        let outcome = runtime::start()?.block_on(carry::push_locally(&receiver, &source, &options, &attempt))?;
        let destination = Destination::Local(path);
        Finished { destination: &destination, options: &options, outcome: &outcome, took: started.elapsed() }
            .write_text(self.ui, &mut self.out, "  ")?;
        Ok(outcome)
    }

    /// Shows that both builds are in one history although the workers knew nothing of each other.
    fn show_history(&mut self, first: CommitId, second: CommitId) -> Result<(), CommandError> {
        self.step("Both builds are in one history now: the second was grafted onto the first")?;
        self.command(&format!("treegraft log --repo server/repo {REF}"))?;
        let repo = Repo::open(&self.root.join("server/repo"))?;
        for id in [second, first] {
            let Commit { subject, timestamp_secs, .. } = repo.commit(id)?;
            self.say(format_args!("  {}  {}  {subject}", human::short(id.0), human::date(timestamp_secs)))?;
        }
        let commit = repo.commit(second)?;
        if commit.parent != Some(first) {
            return Err(wrong("the second commit is not on top of the first"));
        }
        Ok(())
    }

    /// Checks repository and signatures.
    fn check(&mut self, key: &Ed25519Key, head: CommitId) -> Result<(), CommandError> {
        self.step("The repository is sound, and what is published is signed")?;
        self.command("treegraft fsck --repo server/repo")?;
        let repo = Repo::open(&self.root.join("server/repo"))?;
        let report = fsck::run(&repo, &mut |_| ())?;
        if let Some(problem) = report.problems.first() {
            return Err(wrong(problem));
        }
        let (objects, commits) = (human::things(report.objects, "object"), human::things(report.commits, "commit"));
        self.say(format_args!("  {objects} and {commits} checked: all is sound"))?;
        let data = repo.metadata(ObjectName::from(head))?.ok_or_else(|| wrong("the commit is not there"))?;
        let metadata = repo.detached_metadata(head)?.unwrap_or_default();
        verify(key, &data, metadata.get(treegraft_sign::ED25519_SIGNATURES))?;
        self.say(format_args!("  commit {}: good signature", human::short(head.0)))?;
        let (data, signatures) = summary::read(&repo)?.ok_or_else(|| wrong("there is no summary"))?;
        verify(key, &data, signatures.get(treegraft_sign::ED25519_SIGNATURES))?;
        self.say(format_args!("  summary: good signature"))
    }

    fn tell_how_to_pull(&mut self, key: &Ed25519Key) -> Result<(), CommandError> {
        self.step("Any OSTree client can pull it, from this directory or over HTTP")?;
        self.command("ostree init --repo=client --mode=bare-user-only")?;
        self.command(&format!(
            "ostree remote add --repo=client --no-gpg-verify --sign-verify=ed25519=inline:{} demo file://{}",
            key.public_base64(),
            self.root.join("server/repo").display(),
        ))?;
        self.command(&format!("ostree pull --repo=client demo {REF}"))?;
        self.say(format_args!(
            "  With refs like app/ID/ARCH/BRANCH, Flatpak installs from it (and checks GPG signatures):"
        ))?;
        self.command("flatpak remote-add --user demo https://example.org/repo --gpg-import=key.gpg")
    }

    fn step(&mut self, title: &str) -> Result<(), CommandError> {
        self.out.line(format_args!("\n# {title}"))
    }

    fn command(&mut self, command: &str) -> Result<(), CommandError> {
        self.out.line(format_args!("$ {command}"))
    }

    fn say(&mut self, text: fmt::Arguments<'_>) -> Result<(), CommandError> {
        self.out.line(text)
    }
}

fn verify(key: &Ed25519Key, data: &[u8], signatures: Option<&Variant>) -> Result<(), CommandError> {
    let signatures = signatures.and_then(Variant::as_byte_arrays).unwrap_or_default();
    let signature = signatures.first().ok_or_else(|| wrong("there is no signature"))?;
    ed25519::verify(&key.public_key(), data, signature).map_err(wrong)
}

fn wrong(reason: impl fmt::Display) -> CommandError {
    CommandError::internal(Wrong(reason.to_string()))
}

fn failure(action: &'static str, path: &Path, source: io::Error) -> CommandError {
    CommandError::user(DemoError { action, path: path.to_owned(), source })
}

/// Writes a file that only its owner may read.
fn write_secret(path: &Path, data: &[u8]) -> Result<(), CommandError> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(data)).map_err(|source| failure("write", path, source))
}

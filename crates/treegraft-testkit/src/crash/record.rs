//! Runs a program and records what it does to a directory.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::BufRead as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::disk::{Change, Crash, Disk, Edit, Event, Node};
use super::image::Image;
use super::strace::{self, Arg, Call};
use crate::oracle::{self, Oracle};
use crate::run::Run;

/// Every call that changes files or makes changes durable; the question mark is for those that a machine does not have.
const CALLS: &str = "?open,openat,?openat2,?creat,write,pwrite64,writev,?pwritev,?pwritev2,?copy_file_range,?sendfile,\
    ?splice,truncate,ftruncate,?fallocate,?mkdir,mkdirat,?rename,?renameat,?renameat2,?link,linkat,?unlink,unlinkat,?rmdir,\
    ?symlink,symlinkat,?chmod,fchmod,fchmodat,?fchmodat2,?mknod,mknodat,fsync,fdatasync,syncfs,sync,lseek,mmap";

/// Longest string that `strace` writes, in bytes; a longer one is cut off, which is an error here.
const MAX_STRING_BYTES: usize = 1 << 28;

/// Finds `strace`, and records with it.
#[derive(Debug)]
pub struct Recorder {
    strace: PathBuf,
}

/// A recording under way.
#[derive(Debug)]
pub struct Recording {
    strace: PathBuf,
    root: PathBuf,
    before: Image,
    log: tempfile::NamedTempFile,
}

impl Recorder {
    /// Finds the program, or tells that the calling test is skipped.
    #[track_caller]
    pub fn find() -> Option<Self> {
        Some(Self { strace: oracle::require(Oracle::Strace)? })
    }

    /// Begins to record what is done below a directory.
    pub fn begin(&self, root: &Path) -> Recording {
        let root = root.canonicalize().expect("the directory is there");
        let before = Image::read(&root);
        let log = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        Recording { strace: self.strace.clone(), root, before, log }
    }

    /// Runs a command to its end and records what it does below a directory.
    ///
    /// Of the environment it sees what the command sets.
    #[track_caller]
    #[must_use = "a recording is there to be looked at"]
    pub fn run(&self, root: &Path, command: &Command) -> (Run, Disk) {
        let recording = self.begin(root);
        let run = self.trace(recording.options(), command);
        (run, recording.finish())
    }

    /// Runs a command to its end under `strace` with these options, which make some of its calls fail.
    ///
    /// Of the environment it sees what the command sets.
    #[track_caller]
    #[must_use = "a run that nobody looks at proves nothing"]
    pub fn run_with(&self, options: &[String], command: &Command) -> Run {
        self.trace(unrecorded(options), command)
    }

    /// Returns the words to put before a command so that it runs as in [`run_with`](Self::run_with).
    pub fn prefix_with(&self, options: &[String]) -> Vec<OsString> {
        std::iter::once(self.strace.clone().into_os_string()).chain(unrecorded(options)).collect()
    }

    #[track_caller]
    fn trace(&self, options: impl IntoIterator<Item = OsString>, command: &Command) -> Run {
        let mut traced = Command::new(&self.strace);
        traced.env_clear().args(options).arg(command.get_program()).args(command.get_args());
        traced.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        traced.current_dir(command.get_current_dir().unwrap_or(Path::new("/")));
        Run::of(&mut traced)
    }
}

/// Returns the options of `strace` with which nothing is recorded.
fn unrecorded(options: &[String]) -> impl Iterator<Item = OsString> {
    let fixed = ["-f", "-q", "-o", "/dev/null"].map(OsString::from);
    fixed.into_iter().chain(options.iter().map(OsString::from)).chain(["--".into()])
}

impl Recording {
    /// Returns the words to put before a command so that it is recorded.
    pub fn prefix(&self) -> Vec<OsString> {
        std::iter::once(self.strace.clone().into_os_string()).chain(self.options()).collect()
    }

    fn options(&self) -> Vec<OsString> {
        let mut options: Vec<OsString> = ["-f", "-q", "-y", "-xx", "--seccomp-bpf"].map(OsString::from).into();
        options.extend([format!("-s{MAX_STRING_BYTES}").into(), format!("-etrace={CALLS}").into()]);
        options.extend([OsString::from("-esignal=none"), "-o".into(), self.log.path().into(), "--".into()]);
        options
    }

    /// Ends the recording, after the program has ended.
    ///
    /// # Panics
    ///
    /// Panics when the log does not lead to what is there now: then a change has escaped.
    #[track_caller]
    pub fn finish(self) -> Disk {
        let log = fs::File::open(self.log.path()).expect("the log is there");
        let mut parser = strace::Parser::default();
        let mut replay = Replay::new(self.root.clone(), &self.before);
        for line in std::io::BufReader::new(log).lines() {
            let line = line.expect("the log is text");
            match parser.parse(&line) {
                Ok(Some(call)) => {
                    replay.add(&call);
                    replay.events_after.push(replay.disk.events());
                }
                Ok(None) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let disk = replay.finish();
        let (told, left) = (disk.after(disk.events(), Crash::Kill), Image::read(&self.root));
        assert_eq!(told.differences(&left), Vec::<PathBuf>::new(), "the recording leads to what the program has left");
        disk
    }
}

/// Turns calls into changes.
struct Replay {
    disk: Disk,
    root: PathBuf,
    umask: u32,
    /// Where the next byte is written to each file that was opened.
    positions: HashMap<Node, usize>,
    /// Files that were opened without a name: by what stands for one, and by their number under `/proc/self/fd`.
    unnamed: HashMap<Vec<u8>, Node>,
    /// How many events there were after so many calls.
    events_after: Vec<usize>,
    /// Calls below a directory that is not there yet: the call that makes it ended at the same time in another thread.
    early: Vec<Call>,
}

/// A call cannot be played back yet.
#[derive(Debug)]
struct TooEarly;

impl Replay {
    fn new(root: PathBuf, before: &Image) -> Self {
        let status = fs::read_to_string("/proc/self/status").expect("the system tells about processes");
        let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        let umask = umask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).expect("it tells the umask");
        Self {
            disk: Disk::new(before),
            root,
            umask,
            positions: HashMap::new(),
            unnamed: HashMap::new(),
            events_after: vec![0],
            early: Vec::new(),
        }
    }

    fn add(&mut self, call: &Call) {
        if self.play(call).is_err() {
            self.early.push(call.clone());
            return;
        }
        for call in std::mem::take(&mut self.early) {
            self.add(&call);
        }
    }

    fn finish(self) -> Disk {
        let first = self.early.first();
        assert!(first.is_none(), "each call is in a directory that some call has made: {first:?}");
        self.disk
    }

    /// Returns the path of a file below the root, nothing for one elsewhere.
    fn below(&self, base: Option<&Arg>, path: Option<&Arg>) -> Option<PathBuf> {
        let base = match base {
            Some(Arg::Fd { path, .. }) => Some(Path::new(OsStr::from_bytes(path))),
            _ => None,
        };
        let full = match path {
            Some(Arg::Text(path)) => {
                let path = Path::new(OsStr::from_bytes(path));
                // `strace` does not tell the current directory of calls that have no directory as argument.
                let is_known = base.is_some() || path.is_absolute();
                assert!(is_known, "`{}` is relative to an unknown directory", path.display());
                base.unwrap_or(Path::new("/")).join(path)
            }
            _ => base.unwrap_or(Path::new("/")).to_owned(),
        };
        let full: PathBuf = full.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect();
        let below = full.strip_prefix(&self.root).ok()?;
        assert!(!below.iter().any(|part| part == ".."), "no path goes up again: {}", below.display());
        Some(below.to_owned())
    }

    fn play(&mut self, call: &Call) -> Result<(), TooEarly> {
        let arg = |index: usize| call.args.get(index);
        match &*call.name {
            "open" | "creat" | "openat" | "openat2" => self.play_open(call),
            "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" => self.play_write(call),
            "mkdir" => self.play_make(call, None, arg(0), arg(1)),
            "mkdirat" => self.play_make(call, arg(0), arg(1), arg(2)),
            "rename" => self.play_rename(call, (None, arg(0)), (None, arg(1)), None),
            "renameat" | "renameat2" => self.play_rename(call, (arg(0), arg(1)), (arg(2), arg(3)), arg(4)),
            "link" => self.play_link(call, (None, arg(0)), (None, arg(1))),
            "linkat" => self.play_link(call, (arg(0), arg(1)), (arg(2), arg(3))),
            "unlink" | "rmdir" => self.play_unlink(call, None, arg(0)),
            "unlinkat" => self.play_unlink(call, arg(0), arg(1)),
            "symlink" => self.play_symlink(call, arg(0), None, arg(1)),
            "symlinkat" => self.play_symlink(call, arg(0), arg(1), arg(2)),
            "chmod" => self.play_mode(call, None, arg(0), arg(1)),
            "fchmod" => self.play_mode(call, arg(0), None, arg(1)),
            "fchmodat" | "fchmodat2" => self.play_mode(call, arg(0), arg(1), arg(2)),
            "ftruncate" => self.play_resize(call),
            "fallocate" => self.play_allocate(call),
            "lseek" => self.play_seek(call),
            "fsync" | "fdatasync" => self.play_sync(call),
            "syncfs" | "sync" => {
                // Which file system it is does not matter: the directory is on one.
                self.push(call, Event::Sync { node: None, covered: self.events_after[call.ended_before] }, "");
                Ok(())
            }
            _ => {
                self.must_be_elsewhere(call);
                Ok(())
            }
        }
    }

    /// Makes sure that a call which is not understood concerns other files.
    fn must_be_elsewhere(&self, call: &Call) {
        let is_harmless = call.name == "mmap"
            && !(call.args.iter().any(|arg| arg.has_flag("MAP_SHARED"))
                && call.args.iter().any(|arg| arg.has_flag("PROT_WRITE")));
        let is_below = call.args.iter().any(|arg| match arg {
            Arg::Fd { .. } => self.below(Some(arg), None).is_some(),
            Arg::Text(_) => self.below(None, Some(arg)).is_some(),
            _ => false,
        });
        assert!(is_harmless || !is_below, "the call `{}` is not recorded: {call:?}", call.name);
    }

    fn push(&mut self, call: &Call, event: Event, path: impl AsRef<Path>) {
        self.disk.push(event, format!("{} {}", call.name, path.as_ref().display()));
    }

    fn step(&mut self, call: &Call, path: &Path, changes: Vec<Change>) {
        self.push(call, Event::Step(changes), path);
    }

    fn play_open(&mut self, call: &Call) -> Result<(), TooEarly> {
        // The name that was given may lead through a link; what was opened in the end is known.
        let Some(path) = self.below(Some(&call.result), None) else { return Ok(()) };
        let has = |flag: &str| call.args.iter().any(|arg| arg.has_flag(flag));
        assert!(call.name != "creat" && call.name != "openat2", "not recorded: {call:?}");
        if has("O_TMPFILE") {
            self.open_unnamed(call);
            return Ok(());
        }
        let existing = self.disk.find(&path);
        let node = match existing {
            Some(node) => node,
            None if has("O_CREAT") => {
                let (directory, name) = self.disk.place(&path).ok_or(TooEarly)?;
                let mode = call.args.last().and_then(Arg::number).and_then(|mode| u32::try_from(mode).ok());
                let node = self.disk.make_file(mode.expect("a file is made with a mode") & !self.umask);
                self.step(call, &path, vec![Change::Entry { directory, name, to: Some(node) }]);
                node
            }
            None => return Err(TooEarly),
        };
        if existing.is_some() && has("O_TRUNC") {
            self.step(call, &path, vec![Change::Edit { node, edit: Edit::Resize { bytes: 0 } }]);
        }
        let is_written = has("O_WRONLY") || has("O_RDWR");
        if is_written {
            let position = if has("O_APPEND") { self.disk.size(node) } else { 0 };
            self.positions.insert(node, position);
        }
        Ok(())
    }

    /// Makes a file that has no name yet; `linkat` may give it one.
    fn open_unnamed(&mut self, call: &Call) {
        let mode = call.args.last().and_then(Arg::number).and_then(|mode| u32::try_from(mode).ok());
        let node = self.disk.make_file(mode.expect("a file is made with a mode") & !self.umask);
        let Arg::Fd { number, path, .. } = &call.result else { panic!("a file is opened: {call:?}") };
        self.unnamed.insert(path.clone(), node);
        self.unnamed.insert(format!("/proc/self/fd/{number}").into_bytes(), node);
        self.positions.insert(node, 0);
    }

    /// Returns the node of a file descriptor, nothing when it is elsewhere or has no name any more.
    fn opened(&self, fd: Option<&Arg>) -> Result<Option<(Node, PathBuf)>, TooEarly> {
        if let Some(Arg::Fd { is_deleted: true, path, .. }) = fd
            && let Some(node) = self.unnamed.get(path)
        {
            return Ok(Some((*node, PathBuf::from("(unnamed)"))));
        }
        let Some(Arg::Fd { is_deleted: false, .. }) = fd else { return Ok(None) };
        let Some(path) = self.below(fd, None) else { return Ok(None) };
        let node = self.disk.find(&path).ok_or(TooEarly)?;
        Ok(Some((node, path)))
    }

    fn play_write(&mut self, call: &Call) -> Result<(), TooEarly> {
        let Some((node, path)) = self.opened(call.args.first())? else { return Ok(()) };
        let mut bytes = match call.args.get(1) {
            Some(Arg::Text(bytes)) => bytes.clone(),
            Some(Arg::Texts(parts)) => parts.concat(),
            _ => panic!("a write has bytes: {call:?}"),
        };
        let count = call.result.number().and_then(|count| usize::try_from(count).ok());
        bytes.truncate(count.expect("a write returns a count"));
        let offset = if call.name.starts_with('p') {
            let offset = call.args.get(3).and_then(Arg::number).and_then(|offset| usize::try_from(offset).ok());
            offset.expect("it is written at an offset")
        } else {
            let position = self.positions.entry(node).or_default();
            let offset = *position;
            *position += bytes.len();
            offset
        };
        self.step(call, &path, vec![Change::Edit { node, edit: Edit::Write { offset, bytes } }]);
        Ok(())
    }

    fn play_make(
        &mut self,
        call: &Call,
        base: Option<&Arg>,
        path: Option<&Arg>,
        mode: Option<&Arg>,
    ) -> Result<(), TooEarly> {
        let Some(path) = self.below(base, path) else { return Ok(()) };
        let (directory, name) = self.disk.place(&path).ok_or(TooEarly)?;
        let mode = mode.and_then(Arg::number).and_then(|mode| u32::try_from(mode).ok());
        let node = self.disk.make_directory(mode.expect("a directory is made with a mode") & !self.umask);
        self.step(call, &path, vec![Change::Entry { directory, name, to: Some(node) }]);
        Ok(())
    }

    fn play_rename(
        &mut self,
        call: &Call,
        from: (Option<&Arg>, Option<&Arg>),
        to: (Option<&Arg>, Option<&Arg>),
        flags: Option<&Arg>,
    ) -> Result<(), TooEarly> {
        let (from, to) = (self.below(from.0, from.1), self.below(to.0, to.1));
        let (from, to) = match (from, to) {
            (None, None) => return Ok(()),
            (Some(from), Some(to)) => (from, to),
            _ => panic!("nothing is renamed into the directory or out of it: {call:?}"),
        };
        assert!(!flags.is_some_and(|flags| flags.has_flag("RENAME_EXCHANGE")), "not recorded: {call:?}");
        let node = self.disk.find(&from).ok_or(TooEarly)?;
        if self.disk.find(&to) == Some(node) {
            // Two names of one file both stay.
            return Ok(());
        }
        let (directory, name) = self.disk.place(&to).ok_or(TooEarly)?;
        let (old_directory, old_name) = self.disk.place(&from).ok_or(TooEarly)?;
        let taken = Change::Entry { directory: old_directory, name: old_name, to: None };
        self.step(call, &to, vec![taken, Change::Entry { directory, name, to: Some(node) }]);
        Ok(())
    }

    fn play_link(
        &mut self,
        call: &Call,
        from: (Option<&Arg>, Option<&Arg>),
        to: (Option<&Arg>, Option<&Arg>),
    ) -> Result<(), TooEarly> {
        let Some(to) = self.below(to.0, to.1) else { return Ok(()) };
        let unnamed = match from {
            (_, Some(Arg::Text(path))) if !path.is_empty() => self.unnamed.get(path),
            (Some(Arg::Fd { path, .. }), _) => self.unnamed.get(path),
            _ => None,
        };
        let node = if let Some(node) = unnamed {
            *node
        } else {
            let from = self.below(from.0, from.1).expect("nothing is linked into the directory from elsewhere");
            self.disk.find(&from).ok_or(TooEarly)?
        };
        let (directory, name) = self.disk.place(&to).ok_or(TooEarly)?;
        self.step(call, &to, vec![Change::Entry { directory, name, to: Some(node) }]);
        Ok(())
    }

    fn play_unlink(&mut self, call: &Call, base: Option<&Arg>, path: Option<&Arg>) -> Result<(), TooEarly> {
        let Some(path) = self.below(base, path) else { return Ok(()) };
        let _node = self.disk.find(&path).ok_or(TooEarly)?;
        let (directory, name) = self.disk.place(&path).ok_or(TooEarly)?;
        self.step(call, &path, vec![Change::Entry { directory, name, to: None }]);
        Ok(())
    }

    fn play_symlink(
        &mut self,
        call: &Call,
        target: Option<&Arg>,
        base: Option<&Arg>,
        path: Option<&Arg>,
    ) -> Result<(), TooEarly> {
        let Some(path) = self.below(base, path) else { return Ok(()) };
        let Some(Arg::Text(target)) = target else { panic!("a link has a target: {call:?}") };
        let (directory, name) = self.disk.place(&path).ok_or(TooEarly)?;
        let node = self.disk.make_symlink(target);
        self.step(call, &path, vec![Change::Entry { directory, name, to: Some(node) }]);
        Ok(())
    }

    fn play_mode(
        &mut self,
        call: &Call,
        base: Option<&Arg>,
        path: Option<&Arg>,
        mode: Option<&Arg>,
    ) -> Result<(), TooEarly> {
        let (node, path) = if path.is_none() {
            let Some(opened) = self.opened(base)? else { return Ok(()) };
            opened
        } else {
            let Some(path) = self.below(base, path) else { return Ok(()) };
            (self.disk.find(&path).ok_or(TooEarly)?, path)
        };
        let mode = mode.and_then(Arg::number).and_then(|mode| u32::try_from(mode).ok()).expect("a mode is a number");
        self.step(call, &path, vec![Change::Edit { node, edit: Edit::Mode(mode) }]);
        Ok(())
    }

    fn play_resize(&mut self, call: &Call) -> Result<(), TooEarly> {
        let Some((node, path)) = self.opened(call.args.first())? else { return Ok(()) };
        let bytes = call.args.get(1).and_then(Arg::number).and_then(|bytes| usize::try_from(bytes).ok());
        let edit = Edit::Resize { bytes: bytes.expect("a size is a number") };
        self.step(call, &path, vec![Change::Edit { node, edit }]);
        Ok(())
    }

    fn play_allocate(&mut self, call: &Call) -> Result<(), TooEarly> {
        let Some((node, path)) = self.opened(call.args.first())? else { return Ok(()) };
        let number = |index: usize| call.args.get(index).and_then(Arg::number).and_then(|it| usize::try_from(it).ok());
        let (Some(0), Some(offset), Some(length)) = (number(1), number(2), number(3)) else {
            panic!("only the usual kind is recorded: {call:?}");
        };
        let edit = Edit::Resize { bytes: self.disk.size(node).max(offset + length) };
        self.step(call, &path, vec![Change::Edit { node, edit }]);
        Ok(())
    }

    fn play_seek(&mut self, call: &Call) -> Result<(), TooEarly> {
        let Some((node, _)) = self.opened(call.args.first())? else { return Ok(()) };
        if let Some(position) = self.positions.get_mut(&node) {
            let result = call.result.number().and_then(|result| usize::try_from(result).ok());
            *position = result.expect("a position is a number");
        }
        Ok(())
    }

    fn play_sync(&mut self, call: &Call) -> Result<(), TooEarly> {
        if let Some((node, path)) = self.opened(call.args.first())? {
            let covered = self.events_after[call.ended_before];
            self.push(call, Event::Sync { node: Some(node), covered }, path);
        }
        Ok(())
    }
}

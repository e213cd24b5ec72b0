//! Peak memory of the processes of a push, without that of the programs which they start.
//!
//! The kernel keeps the most that a process has had in memory (`VmHWM`) and begins anew when it executes a program, so
//! neither what starts it nor `gpg` and `flatpak` below it are counted, as they are by `getrusage` and `time`. It is gone
//! with the process, and is therefore looked at as long as that runs.
//!
//! `ssh` starts the receivers, several for a push over a long link. So each of them is started by a task of its own,
//! which leaves a file in a folder: empty at first, and with the peak when the program has ended.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use super::{file, make_folder};
use crate::TaskError;

/// How long a process may grow without being seen before it ends.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long receivers may run on when the push has ended: it does not wait for the end of `ssh`.
const LONGEST_END: Duration = Duration::from_secs(60);

/// Arguments of the task that starts a program and leaves its peak memory in a folder.
#[derive(Debug, Args)]
pub(crate) struct PeakArgs {
    /// Folder for a file with the peak in KiB.
    folder: PathBuf,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

/// Runs the program in place of this process, as far as others can tell: with its streams and its exit code.
pub(crate) fn run(args: &PeakArgs) -> Result<(), TaskError> {
    let note = args.folder.join(std::process::id().to_string());
    let write = |text: &str| fs::write(&note, text).map_err(|source| file("write", &note, source));
    write("")?;
    let line = || args.command.join(" ".as_ref()).to_string_lossy().into_owned();
    let started = Command::new(&args.command[0]).args(&args.command[1..]).spawn();
    let ended = started.and_then(|mut child| watch(&mut child));
    let (status, peak_kib) = ended.map_err(|source| TaskError::Start { command_line: line(), source })?;
    write(&peak_kib.to_string())?;
    if status.success() { Ok(()) } else { std::process::exit(status.code().unwrap_or(1)) }
}

/// Waits for the end of a process and returns its peak in KiB.
fn watch(child: &mut Child) -> io::Result<(ExitStatus, u64)> {
    let process = PathBuf::from(format!("/proc/{}/status", child.id()));
    let mut peak_kib = 0;
    loop {
        peak_kib = peak_kib.max(high_water_mark_kib(&process));
        if let Some(status) = child.try_wait()? {
            return Ok((status, peak_kib));
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Returns 0 for a process that has ended and is not waited for.
fn high_water_mark_kib(process: &Path) -> u64 {
    let status = fs::read_to_string(process).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

/// A folder in which processes leave their peaks.
pub(super) struct Peaks {
    folder: PathBuf,
}

impl Peaks {
    pub(super) fn in_folder(folder: PathBuf) -> Result<Self, TaskError> {
        make_folder(&folder)?;
        Ok(Self { folder })
    }

    /// Returns the words to be put in front of a command line for a shell, so that its peak is kept.
    pub(super) fn prefix(&self) -> Result<String, TaskError> {
        let task = std::env::current_exe().map_err(|source| file("find", Path::new("xtask"), source))?;
        Ok(format!("'{}' bench-peak '{}' ", task.display(), self.folder.display()))
    }

    /// Waits until all processes have ended and returns the largest peak in MiB.
    pub(super) fn largest_mib(&self) -> Result<u64, TaskError> {
        let failed = |source| file("read", &self.folder, source);
        let start = Instant::now();
        loop {
            let mut peaks_kib = Vec::new();
            for entry in fs::read_dir(&self.folder).map_err(failed)? {
                let text = fs::read_to_string(entry.map_err(failed)?.path()).map_err(failed)?;
                peaks_kib.push(text.parse::<u64>().ok());
            }
            // `None` is a process that runs, and it is less than all peaks.
            if let Some(Some(_)) = peaks_kib.iter().min() {
                return Ok(peaks_kib.into_iter().flatten().max().unwrap_or(0).div_ceil(1024));
            }
            if start.elapsed() > LONGEST_END {
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    /// Makes a shell that starts `dd` with a buffer of 100 MiB, or with `exec` becomes it.
    fn dd(start: &str, target: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{start} dd if=/dev/zero bs=100M count=1 status=none {target}; exit 0"));
        shell
    }

    #[test]
    fn the_largest_receiver_counts_and_all_are_waited_for() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let peaks = Peaks::in_folder(folder.path().to_owned()).expect("it is there");
        let leave = |name: &str, peak_kib: &str| fs::write(folder.path().join(name), peak_kib).expect("it is ours");
        leave("1", "2048");
        leave("2", "");
        leave("3", "1000");
        let largest_mib = thread::scope(|scope| {
            scope.spawn(|| leave("2", "4095"));
            peaks.largest_mib().expect("all end")
        });
        assert_eq!(largest_mib, 4, "the second one runs on at first and needs most, almost 4 MiB");
    }

    #[test]
    fn a_process_is_measured_without_its_children() {
        let mut child = dd("", "of=/dev/null").spawn().expect("a shell can be started");
        let (_, peak_kib) = watch(&mut child).expect("a child can be waited for");
        assert!(peak_kib < 50 << 10, "a shell is small, whatever it starts: {peak_kib} KiB");
    }

    #[test]
    fn a_program_that_takes_the_place_of_another_is_measured() {
        // It fills its buffer and then waits for somebody who reads.
        let mut child = dd("exec", "").stdout(Stdio::piped()).spawn().expect("a shell can be started");
        let process = PathBuf::from(format!("/proc/{}/status", child.id()));
        let start = Instant::now();
        while high_water_mark_kib(&process) < 100 << 10 && start.elapsed() < LONGEST_END {
            thread::sleep(LOOK_EVERY);
        }
        let peak_kib = high_water_mark_kib(&process);
        drop(child.stdout.take());
        child.wait().expect("a child can be waited for");
        assert!(peak_kib >= 100 << 10, "it has all of its buffer in memory: {peak_kib} KiB");
    }
}

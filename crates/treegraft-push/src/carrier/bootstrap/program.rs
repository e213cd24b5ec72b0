//! The program that is offered to a server.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use treegraft_object::Checksum;

/// The largest program that is offered, in bytes; a build for debugging has some hundred million.
const MAX_PROGRAM_BYTES: u64 = 512 << 20;

/// The kernel that the program is for, as `uname -s` names it.
const KERNEL: &str = "Linux";

/// Kinds of machine: the number in a program's header (`e_machine`), whether it must be little-endian, and the names that
/// `uname -m` gives to machines that run it.
const MACHINES: [(u16, bool, &[&str]); 8] = [
    (62, true, &["x86_64", "amd64"]),
    (3, true, &["i686", "i586", "i486", "i386", "x86_64", "amd64"]),
    (183, true, &["aarch64", "arm64"]),
    (40, true, &["armv7l", "armv8l", "armv6l", "armv5tel"]),
    (21, true, &["ppc64le"]),
    (22, false, &["s390x"]),
    (243, true, &["riscv64"]),
    (258, true, &["loongarch64"]),
];

/// A program cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The file cannot be read.
    #[error("Could not read the program `{path}`", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The file is no program for Linux on a known kind of machine.
    #[error("The file `{path}` is no program for Linux: {reason}", path = path.display())]
    NotAProgram {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
}

/// A program for servers that do not have it: a file and what is in it. The bytes are read again when they are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    path: PathBuf,
    size_bytes: u64,
    checksum: Checksum,
    machines: &'static [&'static str],
}

impl Program {
    /// Looks at a program's file.
    pub fn inspect(path: &Path) -> Result<Self, ProgramError> {
        let bytes = read(path)?;
        let invalid = |reason| ProgramError::NotAProgram { path: path.to_owned(), reason };
        let machines = machines(&bytes).map_err(invalid)?;
        Ok(Self { path: path.to_owned(), size_bytes: bytes.len() as u64, checksum: Checksum::of(&bytes), machines })
    }

    /// Returns the file that it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the machine that it is for, as `uname -m` names it.
    pub fn machine(&self) -> &'static str {
        self.machines[0]
    }

    /// Returns its size.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Reads the bytes, which must be those that were looked at.
    pub(crate) fn load(&self) -> Result<Vec<u8>, ProgramError> {
        let bytes = read(&self.path)?;
        if Checksum::of(&bytes) == self.checksum {
            return Ok(bytes);
        }
        let source = io::Error::other("it has changed meanwhile");
        Err(ProgramError::Read { path: self.path.clone(), source })
    }

    pub(crate) fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// Tells whether a machine with this kernel and of this kind can run it.
    pub(crate) fn fits(&self, kernel: &str, machine: &str) -> bool {
        kernel == KERNEL && self.machines.contains(&machine)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ProgramError> {
    let failed = |source| ProgramError::Read { path: path.to_owned(), source };
    let invalid = |reason| ProgramError::NotAProgram { path: path.to_owned(), reason };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(invalid("it is no regular file"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(MAX_PROGRAM_BYTES)).unwrap_or(0));
    let count = file.take(MAX_PROGRAM_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if count as u64 > MAX_PROGRAM_BYTES { Err(invalid("it is larger than 512 MiB")) } else { Ok(bytes) }
}

/// Returns the names of the machines that run a program, from the first bytes of its file (ELF).
fn machines(bytes: &[u8]) -> Result<&'static [&'static str], &'static str> {
    let (Some(b"\x7fELF"), Some(&data), Some(&[first, second])) = (bytes.get(..4), bytes.get(5), bytes.get(18..20))
    else {
        return Err("it does not begin as one");
    };
    let is_little = data == 1;
    let number = if is_little { u16::from_le_bytes([first, second]) } else { u16::from_be_bytes([first, second]) };
    let known = MACHINES.iter().find(|(machine, little, _)| *machine == number && *little == is_little);
    known.map(|(_, _, names)| *names).ok_or("it is for a kind of machine that is not known")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(data: u8, machine: [u8; 2]) -> Vec<u8> {
        let mut bytes = b"\x7fELF".to_vec();
        bytes.extend([2, data, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0]);
        bytes.extend(machine);
        bytes
    }

    #[test]
    fn the_kind_of_machine_is_in_the_header() {
        for (data, number, machine) in
            [(1, [62, 0], "x86_64"), (1, [183, 0], "aarch64"), (2, [0, 22], "s390x"), (1, [243, 0], "riscv64")]
        {
            assert_eq!(machines(&header(data, number)).map(|names| names[0]), Ok(machine));
        }
        assert!(machines(&header(2, [0, 21])).is_err(), "big-endian POWER is not the little-endian one");
        assert!(machines(&header(1, [8, 0])).is_err(), "MIPS is not known");
        assert!(machines(&header(1, [62, 0])[..19]).is_err(), "the header is cut off");
        assert!(machines(b"#!/bin/sh\nexit 0, or something else").is_err(), "a script is no program");
    }

    #[test]
    fn a_program_for_an_older_machine_runs_on_its_successor() {
        let dir = tempfile::TempDir::new().expect("a directory can be made");
        let path = dir.path().join("program");
        std::fs::write(&path, header(1, [3, 0])).expect("a file can be written");
        let program = Program::inspect(&path).expect("it is a program");
        assert_eq!((program.machine(), program.size_bytes()), ("i686", 20));
        assert!(program.fits("Linux", "x86_64") && program.fits("Linux", "i586"));
        assert!(!program.fits("Linux", "aarch64") && !program.fits("FreeBSD", "i686"));
        std::fs::write(&path, header(1, [62, 0])).expect("a file can be written");
        assert!(
            matches!(program.load(), Err(ProgramError::Read { .. })),
            "its bytes are not the offered ones any more"
        );
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let dir = tempfile::TempDir::new().expect("a directory can be made");
        let missing = Program::inspect(&dir.path().join("missing"));
        assert!(matches!(missing, Err(ProgramError::Read { .. })), "{missing:?}");
        let directory = Program::inspect(dir.path());
        assert!(matches!(directory, Err(ProgramError::NotAProgram { .. })), "{directory:?}");
    }
}

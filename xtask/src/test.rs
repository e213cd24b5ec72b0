//! `cargo xtask test`: the tests of the workspace, with the real programs as judges.

use clap::{Args, ValueEnum};

use crate::dist;
use crate::oracles::Missing;
use crate::{TaskError, shell};

/// Run the tests of the workspace against the real programs.
#[derive(Debug, Default, Args)]
pub(crate) struct TestArgs {
    /// What to do when ostree, flatpak, gpg, sshd, ssh, rsync or python3 cannot be found or installed.
    #[arg(long, value_enum, default_value_t)]
    oracles: Oracles,
    /// What to pass to `cargo test`.
    #[arg(last = true)]
    cargo_args: Vec<String>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Oracles {
    /// Fail when the environment has `CI=true`, otherwise skip the tests that need them.
    #[default]
    Auto,
    /// Fail.
    Require,
}

/// Installs what is missing, if possible, and runs the tests.
pub(crate) fn run(args: &TestArgs) -> Result<(), TaskError> {
    let mut missing = Missing::find();
    if !missing.is_empty() {
        println!("Missing programs: {}", missing.programs.join(", "));
        missing.install_if_possible()?;
        missing = Missing::find();
    }
    let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    if !missing.is_empty() {
        if is_ci || args.oracles == Oracles::Require {
            return Err(missing.error());
        }
        let (programs, install) = (missing.programs.join(", "), missing.install_line());
        println!("Tests that need {programs} are skipped; to run them: {install}");
    }
    let mut tests = shell::cargo();
    tests.args(["test", "--locked", "--no-fail-fast"]);
    // Beside `--workspace`, cargo would not look at the choice of packages.
    let packages = chosen_packages(&args.cargo_args);
    if packages.is_empty() {
        tests.arg("--workspace");
    }
    if packages.is_empty() || packages.contains(&"treegraft") {
        // Its tests send it to servers that have nothing else.
        tests.env("TREEGRAFT_STATIC_PROGRAM", dist::build(dist::Profile::Static)?);
    }
    tests.args(&args.cargo_args);
    if missing.is_empty() {
        tests.env("TREEGRAFT_REQUIRE_ORACLES", "1");
    }
    shell::run(&mut tests)
}

/// Returns the packages that are named in arguments for cargo.
fn chosen_packages(cargo_args: &[String]) -> Vec<&str> {
    let mut packages = Vec::new();
    let mut args = cargo_args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        if arg == "-p" || arg == "--package" {
            packages.extend(args.next());
        } else if let Some(package) = arg.strip_prefix("--package=").or_else(|| arg.strip_prefix("-p")) {
            packages.push(package);
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_in_every_way() {
        let chosen = |line: &str| {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            chosen_packages(&args).join(" ")
        };
        assert_eq!(chosen("--test push_main faults::"), "", "no package is named");
        assert_eq!(chosen("-p a --package b -pc --package=d --test x"), "a b c d");
    }
}

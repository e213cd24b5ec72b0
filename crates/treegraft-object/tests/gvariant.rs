//! Compares the GVariant module with GLib: what passes the check is normal to GLib, and both write the same bytes.

mod random_gvariant;

use std::{
    cell::RefCell,
    env,
    fmt::Write as _,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use proptest::{collection::vec, prelude::*, sample::Index};
use random_gvariant::Decisions;
use treegraft_object::gvariant::{Type, check};
use treegraft_testkit::oracle::REQUIRE_VARIABLE;

/// GLib, behind a small program that answers questions.
struct GLib {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl GLib {
    /// Starts the program, or tells that the test is skipped: the interpreter needs the bindings of GLib.
    fn start() -> Option<RefCell<Self>> {
        let search = env::var_os("PATH").unwrap_or_default();
        let folders = env::split_paths(&search).chain([PathBuf::from("/usr/bin")]);
        let has_glib = |python: &PathBuf| {
            let mut import = Command::new(python);
            import.args(["-c", "from gi.repository import GLib"]).stderr(Stdio::null());
            import.status().is_ok_and(|status| status.success())
        };
        let Some(python) = folders.map(|folder| folder.join("python3")).find(has_glib) else {
            let sentence = "comparing with GLib needs Python with its bindings (apt-get install python3-gi)";
            assert!(
                env::var_os(REQUIRE_VARIABLE).is_none_or(|value| value != "1"),
                "{REQUIRE_VARIABLE}=1, and {sentence}"
            );
            writeln!(std::io::stderr().lock(), "SKIPPED: {sentence}").expect("standard error of a test is open");
            return None;
        };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/glib/judge.py");
        let mut child = Command::new(python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the interpreter starts");
        let questions = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        Some(RefCell::new(Self { child, questions, answers }))
    }

    fn ask(&mut self, verb: &str, arguments: &[&[u8]]) -> String {
        let mut question = verb.to_owned();
        for argument in arguments {
            question.push(' ');
            for byte in *argument {
                write!(question, "{byte:02x}").expect("writing to memory");
            }
            question.push_str(if argument.is_empty() { "-" } else { "" });
        }
        writeln!(self.questions, "{question}").expect("the program reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the program answers");
        assert!(!answer.is_empty(), "GLib has an answer to `{question}`");
        answer.trim_end().to_owned()
    }
}

impl Drop for GLib {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn for_cases<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let result = proptest::test_runner::TestRunner::new(config).run(strategy, test);
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// What passes is normal to GLib. What is normal to GLib passes, unless GLib itself would write other bytes for the value:
/// it reads a container without bytes as one whose children are all empty, though its own form has their end offsets.
fn assert_judged_alike(
    glib: &RefCell<GLib>,
    type_string: &str,
    parsed: &Type,
    data: &[u8],
) -> Result<(), TestCaseError> {
    let ask = |verb| glib.borrow_mut().ask(verb, &[type_string.as_bytes(), data]);
    let checked = check(parsed, data);
    let is_normal = ask("normal") == "yes";
    if checked.is_ok() {
        prop_assert!(is_normal, "{:02x?} as `{}` passes, but GLib refuses it", data, type_string);
    } else if is_normal {
        let answer = ask("text");
        prop_assert_ne!(answer, "yes", "{:02x?} as `{}` is what GLib writes: {:?}", data, type_string, checked);
    }
    Ok(())
}

#[test]
fn writers_write_what_glib_writes() {
    let Some(glib) = GLib::start() else { return };
    for_cases(3_000, &vec(any::<u8>(), 0..200), |decisions| {
        let mut decisions = Decisions::new(&decisions);
        let type_string = random_gvariant::type_string(&mut decisions);
        let parsed = Type::parse(&type_string).expect("the generator writes valid types");
        let data = random_gvariant::value(&parsed, &mut decisions);
        let answer = glib.borrow_mut().ask("text", &[type_string.as_bytes(), &data]);
        prop_assert_eq!(answer, "yes", "GLib writes the same bytes for a `{}`", type_string);
        Ok(())
    });
}

#[test]
fn the_check_passes_what_glib_calls_normal() {
    let Some(glib) = GLib::start() else { return };
    let damages = vec((any::<Index>(), 0..6_u8, prop_oneof![0..16_u8, any::<u8>()]), 1..4);
    for_cases(10_000, &(vec(any::<u8>(), 0..100), damages), |(decisions, damages)| {
        let mut decisions = Decisions::new(&decisions);
        let type_string = random_gvariant::type_string(&mut decisions);
        let parsed = Type::parse(&type_string).expect("the generator writes valid types");
        let mut data = random_gvariant::value(&parsed, &mut decisions);
        for (at, kind, byte) in damages {
            match kind {
                0 => data.insert(at.index(data.len() + 1), byte),
                1 => data.push(byte),
                _ if data.is_empty() => {}
                2 => drop(data.remove(at.index(data.len()))),
                3 => data.truncate(at.index(data.len())),
                _ => {
                    let position = at.index(data.len());
                    data[position] = byte;
                }
            }
        }
        assert_judged_alike(&glib, &type_string, &parsed, &data)
    });
}

#[test]
fn random_bytes_pass_when_glib_calls_them_normal() {
    let Some(glib) = GLib::start() else { return };
    let type_string = "[ybnquxtsogvam]{0,2}(\\([ybuxsgvam]{1,4}\\)|a\\{s[sybv]\\}|ms|as|v|g)";
    for_cases(10_000, &(type_string, vec(prop_oneof![0..8_u8, any::<u8>()], 0..12)), |(type_string, data)| {
        let is_type = glib.borrow_mut().ask("type", &[type_string.as_bytes()]) == "yes";
        let parsed = Type::parse(&type_string);
        prop_assert_eq!(parsed.is_ok(), is_type, "whether `{}` is a type", type_string);
        parsed.map_or(Ok(()), |parsed| assert_judged_alike(&glib, &type_string, &parsed, &data))
    });
}

#[test]
fn a_type_is_what_glib_calls_a_definite_type() {
    let Some(glib) = GLib::start() else { return };
    for_cases(5_000, &"[bynqiuxthdsogvam(){}*?r]{1,8}", |text| {
        let answer = glib.borrow_mut().ask("type", &[text.as_bytes()]);
        prop_assert_eq!(Type::parse(&text).is_ok(), answer == "yes", "whether `{}` is a type", text);
        Ok(())
    });
    for depth in [127, 128, 129] {
        for text in [format!("{}y", "a".repeat(depth)), format!("{}y", "m".repeat(depth))] {
            let answer = glib.borrow_mut().ask("type", &[text.as_bytes()]);
            assert_eq!(Type::parse(&text).is_ok(), answer == "yes", "whether `{text}` is a type");
        }
    }
}

/// The limit of nesting is reached at the same level, by values and by types.
#[test]
fn nesting_ends_where_glib_ends() {
    let Some(glib) = GLib::start() else { return };
    let variants = |count: usize| [&[1, 0, b'y'][..], &[0, b'v'].repeat(count)].concat();
    let arrays = |count: usize| [&[0][..], &b"a".repeat(count), b"y"].concat();
    let bytes = |count: usize| [&[1][..], &b"\0".repeat(count), b"\0", &b"m".repeat(count), b"y"].concat();
    // Types of 129 levels, one more than can be nested, make GLib's subtraction wrap, and it takes them. We do not.
    for count in 120..128 {
        for data in [variants(count), variants(count + 8), arrays(count), bytes(count)] {
            let answer = glib.borrow_mut().ask("normal", &[b"v", &data]);
            let checked = check(&Type::parse("v").expect("a valid type"), &data);
            assert_eq!(checked.is_ok(), answer == "yes", "{count} levels: {checked:?}");
        }
    }
    for count in 120..=128 {
        for (type_string, length) in [("y", count - 1), ("ay", count), ("ay", count + 1), ("v", count)] {
            let (type_string, data) = (format!("{}{type_string}", "m".repeat(count)), vec![0; length]);
            if let Ok(parsed) = Type::parse(&type_string) {
                let answer = glib.borrow_mut().ask("normal", &[type_string.as_bytes(), &data]);
                let checked = check(&parsed, &data);
                assert_eq!(checked.is_ok(), answer == "yes", "{length} zeros as `{type_string}`: {checked:?}");
            }
        }
    }
}

//! A worker's repository that cannot be read to its end, or changes while it is sent.

use std::{
    fs::{self, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use treegraft_testkit::{Direction, Image, LinkOptions, Recorder, RepoMode, Run, SlowLink, Sshd, memory_folder};

use crate::{
    connection::push_and_do,
    judge::{Case, Options, case, refs},
    site::{json, objects},
};

/// More than is read ahead of the connection.
const LARGE_BYTES: usize = 8 << 20;

const MODES: [RepoMode; 2] = [RepoMode::Archive, RepoMode::BareUser];

/// Returns the object of the large file.
fn large_object(case: &Case) -> PathBuf {
    let path = |name: String| case.worker.join("objects").join(name);
    let mut large = objects(&case.worker).into_iter().map(path);
    large.find(|path| path.metadata().is_ok_and(|metadata| metadata.len() > 1 << 20)).expect("there is a large file")
}

fn checksum(object: &Path) -> String {
    let parts = [object.parent().and_then(Path::file_name), object.file_stem()];
    parts.iter().flatten().map(|part| part.display().to_string()).collect()
}

fn open(object: &Path) -> fs::File {
    OpenOptions::new().write(true).open(object).expect("the object can be opened")
}

/// What happens to an object while it is sent, and whether the push may go through then.
type Change = (&'static str, fn(&Path), bool);

const CHANGES: [Change; 4] = [
    ("cut short", |object| open(object).set_len(5_000_000).expect("a file can be cut"), false),
    (
        "written over",
        |object| {
            let mut file = open(object);
            file.seek(SeekFrom::Start(7_000_000)).expect("it is that long");
            file.write_all(b"changed").expect("it can be written");
        },
        false,
    ),
    // What is sent may be what was there before.
    (
        "made longer",
        |object| {
            let mut file = open(object);
            file.seek(SeekFrom::End(0)).expect("a file has an end");
            file.write_all(&[0; 100_000]).expect("it can be written");
        },
        true,
    ),
    ("deleted", |object| fs::remove_file(object).expect("it can be deleted"), true),
];

#[test]
fn an_object_that_changes_while_it_is_sent_is_named_and_not_published() {
    for mode in MODES {
        let Some((mut case, _folder)) = case(Options { mode, large_bytes: LARGE_BYTES, ..Options::default() }) else {
            return;
        };
        let server = case.site.server.clone();
        let before = Image::read(&server);
        case.site.push_local(&case.worker, case.names).ok();
        case.expect(&server);
        let object = large_object(&case);
        let kept = case.site.env.root().join("kept");
        // With its extended attributes, which hold the mode of a file of `bare-user`.
        let copy = |from: &Path, to: &Path| {
            let status = std::process::Command::new("cp").arg("-a").args([from, to]).status();
            assert!(status.expect("`cp` is there").success(), "an object can be copied");
        };
        copy(&object, &kept);
        for (change, work, may_succeed) in CHANGES {
            let folder = memory_folder();
            let server = folder.path().join("repo");
            before.write(&server);
            let result = push_and_do(&case, &server, 1_000_000, &|| work(&object));
            match result {
                Ok(_) => assert!(may_succeed, "{mode:?}: an object that is {change} is not what was pushed"),
                Err(error) => {
                    let text = format!("{error:?}");
                    assert!(text.contains(&checksum(&object)), "{mode:?}, {change}: the object is named: {text}");
                    assert!(!error.is_temporary(), "{mode:?}, {change}: another try does not help: {text}");
                    assert_eq!(refs(&server), case.old, "{mode:?}, {change}: nothing is published");
                }
            }
            let _gone = fs::remove_file(&object);
            copy(&kept, &object);
            case.check(&server).unwrap_or_else(|error| panic!("{mode:?}, {change}: {error}"));
        }
    }
}

#[test]
fn a_broken_connection_is_one_whatever_is_sent() {
    for mode in MODES {
        let Some((case, _folder)) = case(Options { mode, large_bytes: LARGE_BYTES, ..Options::default() }) else {
            return;
        };
        let Some(sshd) = Sshd::start() else { return };
        let link = SlowLink::start(sshd.addr(), LinkOptions::default());
        link.cut_after(Direction::Up, 1_000_000);
        let run = case.site.push_ssh_through(&sshd, link.port(), &case.worker, &[&["--json"], case.names].concat());
        assert_eq!(run.code(), Some(4), "{mode:?}: a broken connection may be gone next time: {}", run.report());
    }
}

#[test]
fn a_broken_disk_of_the_worker_is_not_taken_for_a_broken_connection() {
    let Some(recorder) = Recorder::find() else { return };
    for mode in MODES {
        let Some((case, _folder)) = case(Options { mode, large_bytes: LARGE_BYTES, ..Options::default() }) else {
            return;
        };
        let object = large_object(&case);
        let options = [
            "-einject=read,?readv,?pread64,?copy_file_range:error=EIO:when=3".to_owned(),
            format!("-P{}", object.display()),
        ];
        let run = recorder.run_with(&options, &case.push(&case.site.server, &[]));
        assert_eq!(run.code(), Some(1), "{mode:?}: a broken disk stays broken: {}", run.report());
        let error = json(&run)["error"].to_string();
        assert!(error.contains(&object.display().to_string()), "{mode:?}: the file is named: {error}");
        assert!(error.contains("Input/output error"), "{mode:?}: and what is wrong with it: {error}");
        assert_eq!(refs(&case.site.server), case.old, "{mode:?}: nothing is published");
    }
}

#[test]
fn an_object_of_any_kind_that_is_damaged_or_missing_is_named() {
    for mode in MODES {
        let Some((case, _folder)) = case(Options { mode, ..Options::default() }) else { return };
        let before = Image::read(&case.site.server);
        // Objects that the server has are not read.
        for name in case.lacking(&case.site.server) {
            let object = case.worker.join("objects").join(&name);
            let kept = object.with_extension("kept");
            for is_missing in [true, false] {
                fs::rename(&object, &kept).expect("an object can be renamed");
                if !is_missing {
                    let status = std::process::Command::new("cp").arg("-a").args([&kept, &object]).status();
                    assert!(status.expect("`cp` is there").success(), "an object can be copied");
                    let mut bytes = fs::read(&kept).expect("an object can be read");
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 0x10;
                    open(&object).write_all(&bytes).expect("an object can be written");
                }
                let folder = memory_folder();
                let server = &folder.path().join("repo");
                before.write(server);
                let run = Run::of(&mut case.push(server, &[]));
                let what = format!("{mode:?}: {name}, {}", if is_missing { "missing" } else { "damaged" });
                assert_eq!(run.code(), Some(1), "{what}: no try helps: {}", run.report());
                let told = format!("{}{}", run.text(), run.stderr_text());
                assert!(told.contains(&checksum(&object)), "{what}: it is named: {told}");
                assert_eq!(refs(server), case.old, "{what}: nothing is published");
                case.site.ostree.fsck(server);
                fs::rename(&kept, &object).expect("an object can be renamed");
            }
        }
    }
}

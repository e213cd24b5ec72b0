//! Checks of what goes over the wire.

use serde::{Serialize, de::DeserializeOwned};
use treegraft_wire::{
    ApiError, ObjectsAnswer, OpenAnswer, OpenEvent, OpenRequest, PublishEvent, PublishRequest,
    lanes::LaneSecret,
    login_command,
    question::{self, NAME_BYTES},
    stream::{Encoding, Reader, Writer},
};

/// Checks a stream of objects: what is read of it is written again and read once more.
///
/// # Panics
///
/// When that gives other objects, which is what fuzzing looks for.
pub fn check_stream(data: &[u8]) {
    let objects = read_stream(data);
    let mut written = Vec::new();
    let mut writer = Writer::new(|batch| {
        written.extend_from_slice(&batch.bytes);
        Ok(())
    });
    for (name, encoding, bytes) in &objects {
        writer.object(*name, *encoding, |object| object.copy_from(&mut &bytes[..])).expect("memory takes everything");
    }
    writer.finish().expect("memory takes everything");
    assert_eq!(read_stream(&written), objects, "what is written is what was read");
}

/// Reads the objects up to the end or to the first that breaks the format.
fn read_stream(data: &[u8]) -> Vec<(treegraft_object::ObjectName, Encoding, Vec<u8>)> {
    let (mut objects, mut reader) = (Vec::new(), Reader::new(data));
    while let Ok(Some((name, encoding, mut object))) = reader.next_object() {
        let mut bytes = Vec::new();
        if std::io::copy(&mut object, &mut bytes).is_err() {
            break;
        }
        objects.push((name, encoding, bytes));
    }
    objects
}

/// Checks a question, and an answer to as many names.
///
/// # Panics
///
/// When what is not refused is not encoded to the same bytes, which is what fuzzing looks for.
pub fn check_question(data: &[u8]) {
    if let Ok(names) = question::decode(data) {
        assert_eq!(names.len() * NAME_BYTES, data.len(), "each name has its place");
        assert!(question::encode(&names) == data, "what is not refused is kept byte for byte");
    }
    if let Ok(presence) = question::decode_answer(data, data.len()) {
        assert!(question::encode_answer(&presence) == data, "what is not refused is kept byte for byte");
    }
}

/// Checks a document of each kind.
///
/// # Panics
///
/// When what was read is not read again as it is written, which is what fuzzing looks for.
pub fn check_documents(data: &[u8]) {
    check_document::<OpenRequest>(data);
    check_document::<OpenAnswer>(data);
    check_document::<OpenEvent>(data);
    check_document::<ObjectsAnswer>(data);
    check_document::<PublishRequest>(data);
    check_document::<PublishEvent>(data);
    check_document::<ApiError>(data);
}

fn check_document<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(data: &[u8]) {
    if let Ok(document) = serde_json::from_slice::<T>(data) {
        let written = serde_json::to_vec(&document).expect("documents have no maps with odd keys");
        let read: T = serde_json::from_slice(&written).expect("what is written can be read");
        assert_eq!(read, document, "it is read as it was written");
    }
}

/// Checks a command of ssh, and a path in each form of it; and the line of a lane, which stands at the beginning, too.
///
/// # Panics
///
/// When a path or a line does not come back as it was, which is what fuzzing looks for.
pub fn check_login_command(text: &str) {
    if let Ok(secret) = LaneSecret::of_line(text.as_bytes()) {
        assert_eq!(secret.line(), text, "there is one line for a secret");
    }
    if let Some(path) = login_command::requested_path(text) {
        assert!(!path.is_empty() && !path.contains(char::is_control), "a path is one that can be shown");
        let encoded = login_command::encoded_command("exec \"$@\"", &["word"], &path);
        let quoted = format!("treegraft receive -- {}", login_command::posix_word(&path));
        for command in [encoded, quoted] {
            // What is quoted may have become too long.
            if let Some(again) = login_command::requested_path(&command) {
                assert_eq!(again, path, "a path comes back as it was");
            }
        }
    }
}

//! The binary parts of the protocol: what is written is read again, and nothing that comes panics.

use std::io::{self, Read, Write};

use proptest::prelude::*;
use treegraft_object::{Checksum, ObjectKind, ObjectName};
use treegraft_wire::{
    ApiError, ErrorCode, PublishEvent,
    question::{self, Presence, QuestionError},
    stream::{self, Batch, Compressor, Encoding, StreamError},
};

fn name() -> impl Strategy<Value = ObjectName> {
    let kind =
        prop::sample::select(vec![ObjectKind::File, ObjectKind::DirTree, ObjectKind::DirMeta, ObjectKind::Commit]);
    (kind, any::<[u8; 32]>()).prop_map(|(kind, bytes)| ObjectName::new(kind, Checksum::from_bytes(bytes)))
}

fn written(objects: &[(ObjectName, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut object_bytes = 0;
    let mut writer = stream::Writer::new(|batch: Batch| {
        bytes.extend_from_slice(&batch.bytes);
        object_bytes += batch.object_bytes;
        Ok(())
    });
    for (name, content) in objects {
        let count =
            writer.object(*name, Encoding::Archive, |out| out.write_all(content)).expect("memory takes everything");
        assert_eq!(count, content.len() as u64, "the writer counts the object's bytes");
    }
    writer.finish().expect("memory takes everything");
    let content_bytes: usize = objects.iter().map(|(_, content)| content.len()).sum();
    assert_eq!(object_bytes, content_bytes as u64, "batches count the bytes of objects, not what is between them");
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<(ObjectName, Vec<u8>)>, StreamError> {
    let mut reader = stream::Reader::new(bytes);
    let mut objects = Vec::new();
    while let Some((name, encoding, mut object)) = reader.next_object()? {
        let mut content = Vec::new();
        object.read_to_end(&mut content)?;
        assert_eq!(encoding, Encoding::Archive, "no other one was written");
        objects.push((name, content));
    }
    Ok(objects)
}

proptest! {
    #[test]
    fn a_stream_gives_back_its_objects(
        objects in prop::collection::vec((name(), prop::collection::vec(any::<u8>(), 0..5000)), 0..20),
    ) {
        prop_assert_eq!(read(&written(&objects)).expect("what the writer writes is valid"), objects);
    }

    #[test]
    fn a_cut_stream_ends_at_an_object_or_is_an_error(
        objects in prop::collection::vec((name(), prop::collection::vec(any::<u8>(), 0..300)), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let whole = written(&objects);
        let cut = cut.index(whole.len());
        match read(&whole[..cut]) {
            Ok(read) => prop_assert_eq!(&read[..], &objects[..read.len()], "only whole objects are taken"),
            Err(StreamError::Read(error)) => prop_assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof),
            Err(error) => prop_assert!(false, "a cut is no other error: {}", error),
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = read(&bytes);
        let _ = question::decode(&bytes);
        let _ = question::decode_answer(&bytes, bytes.len());
    }

    #[test]
    fn a_question_gives_back_its_names(names in prop::collection::vec(name(), 0..100)) {
        prop_assert_eq!(question::decode(&question::encode(&names)).expect("a valid question"), names);
    }
}

#[test]
fn a_large_object_is_cut_into_chunks() {
    let name = ObjectName::new(ObjectKind::File, Checksum::of(b"x"));
    let content = vec![7; 3 * stream::MAX_CHUNK_BYTES + 5];
    let objects = [(name, content)];
    let bytes = written(&objects);
    assert_eq!(read(&bytes).expect("valid"), objects, "chunks are put together again");
    assert!(bytes.len() < objects[0].1.len() + 200, "framing costs next to nothing");
}

#[test]
fn a_compressed_stream_may_be_of_any_length() {
    let line = |number: u32| format!("{number} {:x}\n", number.wrapping_mul(0x9e37_79b1));
    let plain: Vec<u8> = (0..600_000).flat_map(|number| line(number).into_bytes()).collect();
    assert!(plain.len() > 8 << 20, "it is longer than two windows");
    // Pieces that end in the middle of frames, at their ends, and behind several of them.
    for piece_bytes in [600_000, 1 << 20, 9 << 20] {
        let mut compressor = Compressor::new().expect("it can compress");
        let (mut compressed, mut done) = (Vec::new(), 0);
        for piece in plain.chunks(piece_bytes) {
            compressed.extend(compressor.write(piece).expect("memory takes everything"));
            compressed.extend(compressor.flush().expect("memory takes everything"));
            done += piece.len();
            let mut sent = Vec::new();
            let reader = stream::decompress(&compressed[..]).expect("it is a stream");
            reader.take(done as u64).read_to_end(&mut sent).expect("what was flushed can be read before more comes");
            assert!(sent == plain[..done], "it is what was written");
        }
        compressed.extend(compressor.finish().expect("memory takes everything"));
        let mut read = Vec::new();
        stream::decompress(&compressed[..]).and_then(|mut stream| stream.read_to_end(&mut read)).expect("it is whole");
        assert!(read == plain, "pieces of {piece_bytes} bytes come back as one stream");
        assert!(compressed.len() < plain.len(), "they are compressed");
        let magic = [0x28, 0xb5, 0x2f, 0xfd];
        let frames = compressed.windows(magic.len()).filter(|bytes| *bytes == magic).count();
        assert!(frames > plain.len() >> 22, "a frame is no longer than the window: {frames} of {} bytes", plain.len());
    }
}

#[test]
fn a_chunk_over_the_limit_is_refused_before_it_is_read() {
    let mut bytes = vec![ObjectKind::File.number(), Encoding::Archive as u8];
    bytes.extend_from_slice(&[0; 32]);
    bytes.extend_from_slice(&u32::MAX.to_be_bytes());
    let Err(StreamError::Read(error)) = read(&bytes) else { panic!("a chunk of 4 GiB is refused") };
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "it is refused for its length, not for its missing bytes");
}

#[test]
fn unknown_kinds_and_encodings_have_their_own_errors() {
    assert!(matches!(read(&[99; 40]), Err(StreamError::Kind { number: 99 })), "kind 99 does not exist");
    let mut bytes = vec![1, 9];
    bytes.extend_from_slice(&[0; 36]);
    assert!(matches!(read(&bytes), Err(StreamError::Encoding { number: 9 })), "encoding 9 does not exist");
    assert_eq!(question::decode(&[1; 34]), Err(QuestionError::Length { bytes: 34 }));
    assert_eq!(question::decode(&[6; 33]), Err(QuestionError::Kind { number: 6 }), "nobody asks for detached metadata");
    assert_eq!(question::decode_answer(b"+-o", 2), Err(QuestionError::Answer), "as many answers as names");
    assert_eq!(question::decode_answer(b"?", 1), Err(QuestionError::Answer), "no other letters");
    assert_eq!(question::decode_answer(b"-o+", 3), Ok(vec![Presence::Missing, Presence::Here, Presence::Complete]));
}

/// Peers of other versions send what this one does not know.
#[test]
fn what_is_not_known_is_tolerated() {
    let error: ApiError =
        serde_json::from_str(r#"{"code":"from-the-future","detail":"d","more":1}"#).expect("tolerated");
    assert_eq!(error.code, ErrorCode::Unknown, "an unknown code is read as such");
    let event: PublishEvent = serde_json::from_str(r#"{"event":"from-the-future","x":1}"#).expect("tolerated");
    assert_eq!(event, PublishEvent::Unknown, "an unknown event is read as such");
}

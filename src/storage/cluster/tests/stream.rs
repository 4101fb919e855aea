//! Commands and replies as bytes, held against another encoder and decoder.

use crate::storage::cluster::network::protocol::{Commands, Decoder, Garbage, Reply, slot_of};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::encode::encode;
use redis_protocol::resp2::types::{OwnedFrame, Resp2Frame};

/// All replies in a stream that arrives in pieces of these lengths, over and over.
fn replies(stream: &[u8], lengths: &[usize]) -> Result<Vec<Reply>, Garbage> {
    let mut decoder = Decoder::default();
    let mut replies = Vec::new();
    let mut lengths = lengths.iter().cycle();
    let mut left = stream;
    while !left.is_empty() {
        let room = decoder.room();
        let count = room.len().min(*lengths.next().unwrap()).min(left.len());
        assert!(count > 0, "there is always room");
        room[..count].copy_from_slice(&left[..count]);
        left = &left[count..];
        decoder.filled(count);
        while let Some(reply) = decoder.next()? {
            replies.push(reply);
        }
    }
    Ok(replies)
}

fn frame() -> impl Strategy<Value = OwnedFrame> {
    let leaf = prop_oneof![
        Just(OwnedFrame::Null),
        any::<i64>().prop_map(OwnedFrame::Integer),
        vec(any::<u8>(), 0..40).prop_map(OwnedFrame::BulkString),
        // Past the sizes at which a text is read to a buffer of its own.
        (any::<u8>(), 0..200_000_usize).prop_map(|(byte, n)| OwnedFrame::BulkString(vec![byte; n])),
        "[A-Z]{1,9} [a-z ]{0,20}".prop_map(OwnedFrame::Error),
        "[A-Za-z ]{0,20}".prop_map(|text| OwnedFrame::SimpleString(text.into_bytes())),
    ];
    leaf.prop_recursive(4, 40, 8, |inner| vec(inner, 0..8).prop_map(OwnedFrame::Array))
}

fn reply(frame: &OwnedFrame) -> Reply {
    match frame {
        OwnedFrame::Null => Reply::Nothing,
        OwnedFrame::Integer(number) => Reply::Integer(*number),
        OwnedFrame::BulkString(text) | OwnedFrame::SimpleString(text) => {
            Reply::Bytes(Bytes::copy_from_slice(text))
        }
        OwnedFrame::Error(text) => Reply::Error(Bytes::copy_from_slice(text.as_bytes())),
        OwnedFrame::Array(frames) => Reply::Many(frames.iter().map(reply).collect()),
    }
}

proptest! {
    #[test]
    fn a_stream_is_decoded_however_it_is_cut(
        frames in vec(frame(), 0..6),
        lengths in vec(prop_oneof![1..8_usize, 1..100_000_usize], 1..6),
    ) {
        let mut stream = Vec::new();
        for frame in &frames {
            let start = stream.len();
            stream.resize(start + frame.encode_len(false), 0);
            encode(&mut stream[start..], frame, false).unwrap();
        }
        let expected: Vec<Reply> = frames.iter().map(reply).collect();
        // Single bytes of a long stream would take long.
        let lengths = if stream.len() > 10_000 { vec![65_536, 7, 100, 65_536] } else { lengths };
        prop_assert_eq!(replies(&stream, &lengths), Ok(expected));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(
        stream in vec(prop_oneof![any::<u8>(), prop::sample::select(&b"+-:$*0123\r\n"[..])], 0..300),
        lengths in vec(1..20_usize, 1..4),
    ) {
        // It does not depend on the cuts.
        prop_assert_eq!(replies(&stream, &lengths), replies(&stream, &[65_536]));
    }

    #[test]
    fn commands_are_encoded_as_lists_of_texts(words in vec(vec(any::<u8>(), 0..300), 1..8)) {
        let slices: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let commands = Commands::default().with(&slices).with(&slices);
        prop_assert_eq!(commands.bytes.len(), commands.bytes.capacity());
        prop_assert_eq!(commands.ends.as_slice(), [commands.bytes.len() / 2, commands.bytes.len()]);
        let (frame, length) = decode(&commands.bytes).unwrap().unwrap();
        let texts = words.into_iter().map(OwnedFrame::BulkString).collect();
        prop_assert_eq!(frame, OwnedFrame::Array(texts));
        prop_assert_eq!(length, commands.ends[0]);
    }

    #[test]
    fn slots_are_those_of_the_cluster(key in vec(prop_oneof![any::<u8>(), Just(b'{'), Just(b'}')], 0..20)) {
        prop_assert_eq!(slot_of(&key), redis_protocol::redis_keyslot(&key));
    }
}

#[test]
fn a_large_value_is_read_once() {
    let length = 10 << 20;
    let mut stream = format!("${length}\r\n").into_bytes();
    stream.extend((0..=u8::MAX).cycle().take(length));
    stream.extend_from_slice(b"\r\n:1\r\n");
    for lengths in [&[1000][..], &[65_536], &[1, 65_536, 3]] {
        let replies = replies(&stream, lengths).unwrap();
        let [Reply::Bytes(value), Reply::Integer(1)] = &*replies else { panic!("two replies") };
        assert_eq!(value.len(), length);
        assert_eq!(value[..], stream[stream.len() - 6 - length..stream.len() - 6]);
    }
}

#[test]
fn lengths_reserve_nothing() {
    // As much as a text and a list can have.
    for head in ["$536870912\r\n", "*4194304\r\n"] {
        assert_eq!(replies(head.as_bytes(), &[100]), Ok(vec![]));
    }
    for head in ["$536870913\r\n", "*4194305\r\n", "$-2\r\n", "*-2\r\n", ":1\n", "?\r\n", "\r\n"] {
        assert_eq!(replies(head.as_bytes(), &[100]), Err(Garbage), "{head:?}");
    }
}

#[test]
fn lists_in_lists_have_an_end() {
    assert_eq!(replies("*1\r\n".repeat(100_000).as_bytes(), &[100]), Err(Garbage));
    assert_eq!(replies(&vec![b'+'; 100_000], &[100]), Err(Garbage));
}

#[test]
fn the_specification_has_these_slots() {
    for (key, slot) in [("123456789", 12739), ("{user1000}.a", 3443)] {
        assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
    }
}

//! JSON lines: an object for each line on standard error, with strings that a terminal
//! can be shown.

use crate::server::Served;
use log::Level;
use serde_core::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::ser::{CompactFormatter, Formatter};
use std::io;
use std::time::SystemTime;

/// The usual size of a line.
const BYTES_USUAL: usize = 320;

/// A line as an object with a time (RFC 3339, UTC), a level and a message.
pub struct JsonLine<'a> {
    pub time: SystemTime,
    pub level: Level,
    pub message: &'a str,
    /// The response, in the access log.
    pub served: Option<&'a Served<'a>>,
}

impl JsonLine<'_> {
    /// Its text, without a line's end.
    pub fn into_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES_USUAL);
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Harmless);
        self.serialize(&mut serializer).expect("memory takes any text");
        bytes
    }
}

impl Serialize for JsonLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { time, level, message, served } = self;
        let mut members = serializer.serialize_map(None)?;
        members.serialize_entry("time", &humantime::format_rfc3339_millis(*time).to_string())?;
        members.serialize_entry("level", &level.as_str().to_ascii_lowercase())?;
        members.serialize_entry("message", message)?;
        if let Some(Served { peer, line, status, body_bytes, duration }) = served {
            members.serialize_entry("method", &*line.method)?;
            members.serialize_entry("target", &*line.target)?;
            members.serialize_entry("status", status)?;
            members.serialize_entry("bytes", body_bytes)?;
            members.serialize_entry("duration", &duration.as_secs_f64())?;
            members.serialize_entry("peer", &peer.to_string())?;
            for (name, value) in [("referer", &line.referer), ("user_agent", &line.user_agent)] {
                if !value.is_empty() {
                    members.serialize_entry(name, &**value)?;
                }
            }
        }
        members.end()
    }
}

/// Strings that are harmless to a terminal: characters that are not printable are
/// escaped, also where JSON takes them as they are.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, character)) = rest.char_indices().find(|(_, c)| !is_printable(*c)) {
            let (before, from) = rest.split_at(at);
            CompactFormatter.write_string_fragment(writer, before)?;
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = from.get(character.len_utf8()..).unwrap_or_default();
        }
        CompactFormatter.write_string_fragment(writer, rest)
    }

    /// Writes seconds, to a microsecond.
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        write!(writer, "{value:.6}")
    }
}

fn is_printable(character: char) -> bool {
    matches!(character, ' '..='~') || character.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Line;
    use serde_json::{Value, json};
    use std::time::{Duration, UNIX_EPOCH};

    fn text(message: &str, served: Option<&Served<'_>>) -> String {
        let time = UNIX_EPOCH + Duration::from_millis(1_795_888_388_042);
        let line = JsonLine { time, level: Level::Warn, message, served };
        String::from_utf8(line.into_bytes()).unwrap()
    }

    #[test]
    fn a_line_has_its_time_its_level_and_its_message() {
        let expected =
            r#"{"time":"2026-11-28T17:53:08.042Z","level":"warn","message":"it's \"so\""}"#;
        assert_eq!(text("it's \"so\"", None), expected);
    }

    #[test]
    fn every_text_is_printable_and_reads_back() {
        for message in [
            "",
            "\0\u{1}\x1b[2J\x07\x7f",
            "one\r\ntwo\n\ttabbed",
            "C:\\ 'x' \"y\" /",
            "\u{9b}31m \u{202e}exe.txt\u{2028} \u{feff}",
            "S\u{e3}o Paulo, e\u{301}, \u{1f1f0}",
            "\u{e0001} beyond the first plane",
            "an invalid byte is \u{fffd}",
        ] {
            let line = text(message, None);
            assert!(line.chars().all(|character| is_printable(character) || character == '\\'));
            let value: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(value["message"], message, "{line}");
        }
        assert!(text("S\u{e3}o", None).contains("S\u{e3}o"), "what is printable stays readable");
    }

    #[test]
    fn a_response_has_numbers_for_what_one_adds_up() {
        let mut line =
            Line { method: "GET".into(), target: "/kv/a?b=\"c\"".into(), ..Line::default() };
        let told = |line: &Line, micros| {
            let served = Served {
                peer: "[::1]:50000".parse().unwrap(),
                line,
                status: 404,
                body_bytes: 14,
                duration: Duration::from_micros(micros),
            };
            text("message", Some(&served))
        };
        let short = told(&line, 7);
        assert!(short.contains(r#""duration":0.000007,"#), "{short}");
        let value: Value = serde_json::from_str(&short).unwrap();
        let expected = json!({
            "time": "2026-11-28T17:53:08.042Z", "level": "warn", "message": "message",
            "method": "GET", "target": "/kv/a?b=\"c\"", "status": 404, "bytes": 14,
            "duration": 0.000_007, "peer": "[::1]:50000",
        });
        assert_eq!(value, expected);

        line.referer = "http://a.test/\x1b".into();
        line.user_agent = "a \"browser\"\u{fffd}".into();
        let value: Value = serde_json::from_str(&told(&line, 90_000_000)).unwrap();
        assert_eq!(value["duration"], 90.0);
        assert_eq!(value["referer"], "http://a.test/\x1b");
        assert_eq!(value["user_agent"], "a \"browser\"\u{fffd}");
    }
}

//! The two forms of a line on standard error: text for people, or a JSON object for
//! programs. Each line has its form from here, whoever writes it.

use super::json::JsonLine;
use super::logging::Printable;
use crate::server::{Line, Served};
use clap::ValueEnum;
use log::Level;
use std::fmt::{Display, Write as _};
use std::time::SystemTime;

/// The form of a line on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// A JSON object.
    Json,
}

impl LogFormat {
    /// A message for the user outside of the log, as one line.
    pub fn complaint(self, what: &impl Display) -> Vec<u8> {
        self.message(Level::Error, &Printable::of(what))
    }

    /// A line in place of lost ones.
    pub fn gap(self, lost: u64) -> Vec<u8> {
        let lines = if lost == 1 { "line is" } else { "lines are" };
        self.message(Level::Warn, &format!("{lost} {lines} missing here"))
    }

    fn message(self, level: Level, message: &str) -> Vec<u8> {
        match self {
            Self::Text => format!("little-key-value: {message}").into_bytes(),
            Self::Json => {
                JsonLine { time: SystemTime::now(), level, message, served: None }.into_bytes()
            }
        }
    }

    /// A line of the access log, for a response that ended at this time.
    pub fn served(self, served: &Served<'_>, time: SystemTime) -> Vec<u8> {
        match self {
            Self::Text => combined(served, time).into_bytes(),
            Self::Json => {
                let Served { line: Line { method, target, .. }, status, .. } = served;
                let message = Printable::of(&format_args!("{method} {target} {status}"));
                let (level, served) = (Level::Info, Some(served));
                JsonLine { time, level, message: &message, served }.into_bytes()
            }
        }
    }
}

/// The combined log format of Apache and nginx:
///
/// ```text
/// 127.0.0.1 - - [28/Nov/2026:17:53:08 +0000] "GET /kv/a HTTP/1.1" 200 5 "-" "curl/8.5.0"
/// ```
fn combined(served: &Served<'_>, time: SystemTime) -> String {
    let Served { peer, line, status, body_bytes, .. } = served;
    let mut text = String::with_capacity(COMBINED_BYTES_USUAL);
    let ip = peer.ip().to_canonical();
    // `Sat, 28 Nov 2026 17:53:08 GMT` is the same time with its words in another order.
    let date = httpdate::fmt_http_date(time);
    let mut words = date.split(' ').skip(1);
    let mut word = || words.next().unwrap_or_default();
    let (day, month, year, clock) = (word(), word(), word(), word());
    let written = write!(text, "{ip} - - [{day}/{month}/{year}:{clock} +0000] \"");
    written.expect("a string takes any text");
    push_escaped(&mut text, &line.method);
    let is_unknown = (&*line.method, &*line.target) == ("-", "-") && line.version.is_none();
    if !is_unknown {
        text.push(' ');
        push_escaped(&mut text, &line.target);
    }
    if let Some(version) = line.version {
        write!(text, " HTTP/1.{version}").expect("a string takes any text");
    }
    write!(text, "\" {status} {body_bytes}").expect("a string takes any text");
    for field in [&line.referer, &line.user_agent] {
        text.push_str(" \"");
        push_escaped(&mut text, if field.is_empty() { "-" } else { field });
        text.push('"');
    }
    text
}

/// The usual size of such a line.
const COMBINED_BYTES_USUAL: usize = 160;

/// Adds a text whose quotes, backslashes and bytes that are not printable ASCII are
/// `\xHH`, as in nginx.
fn push_escaped(to: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' | ..b' ' | 0x7f.. => {
                write!(to, "\\x{byte:02X}").expect("a string takes any text");
            }
            _ => to.push(byte.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::time::{Duration, UNIX_EPOCH};

    fn line(method: &str, target: &str, version: Option<u8>) -> Line {
        Line { method: method.into(), target: target.into(), version, ..Line::default() }
    }

    fn served(format: LogFormat, line: &Line) -> String {
        let peer = "[::ffff:192.0.2.7]:50000".parse().unwrap();
        let duration = Duration::from_millis(1);
        let served = Served { peer, line, status: 200, body_bytes: 5, duration };
        let time = UNIX_EPOCH + Duration::from_secs(1_795_888_388);
        String::from_utf8(format.served(&served, time)).unwrap()
    }

    #[test]
    fn text_is_the_combined_log_format() {
        let mut get = line("GET", "/kv/a?b=c", Some(1));
        let start = "192.0.2.7 - - [28/Nov/2026:17:53:08 +0000] ";
        let text = served(LogFormat::Text, &get);
        assert_eq!(text, format!(r#"{start}"GET /kv/a?b=c HTTP/1.1" 200 5 "-" "-""#));
        (get.referer, get.user_agent) = ("http://a.test/".into(), "curl/8.5.0".into());
        let text = served(LogFormat::Text, &get);
        let end = r#"200 5 "http://a.test/" "curl/8.5.0""#;
        assert_eq!(text, format!(r#"{start}"GET /kv/a?b=c HTTP/1.1" {end}"#));
        let old = line("GET", "/kv/a", Some(0));
        assert!(served(LogFormat::Text, &old).contains(r#""GET /kv/a HTTP/1.0" 200"#));
        let dash = line("GET", "-", Some(1));
        assert!(served(LogFormat::Text, &dash).contains(r#""GET - HTTP/1.1" 200"#));
        let unknown = line("-", "-", None);
        assert!(served(LogFormat::Text, &unknown).contains(r#"] "-" 200 5 "-" "-""#));
    }

    #[test]
    fn no_text_of_a_client_ends_its_field_or_its_line() {
        for (text, shown) in [
            ("a\"b", "a\\x22b"),
            ("a\\b", "a\\x5Cb"),
            ("a\r\nb\t\x1b\x7f", "a\\x0D\\x0Ab\\x09\\x1B\\x7F"),
            ("S\u{e3}o", "S\\xC3\\xA3o"),
            ("a b~!", "a b~!"),
        ] {
            let mut line = line(text, text, Some(1));
            (line.referer, line.user_agent) = (text.into(), text.into());
            let written = served(LogFormat::Text, &line);
            let expected = format!("\"{shown} {shown} HTTP/1.1\" 200 5 \"{shown}\" \"{shown}\"");
            assert!(written.ends_with(&expected), "{written}");
        }
    }

    #[test]
    fn a_message_has_either_form() {
        let both = |write: &dyn Fn(LogFormat) -> Vec<u8>| {
            [LogFormat::Text, LogFormat::Json].map(|f| String::from_utf8(write(f)).unwrap())
        };
        let cases = [
            (both(&|format| format.complaint(&"no \x1b")), "no \\u{1b}", "error"),
            (both(&|format| format.gap(1)), "1 line is missing here", "warn"),
            (both(&|format| format.gap(20)), "20 lines are missing here", "warn"),
        ];
        for ([text, json], message, level) in cases {
            assert_eq!(text, format!("little-key-value: {message}"));
            let json: Value = serde_json::from_str(&json).unwrap();
            assert_eq!((&json["message"], &json["level"]), (&message.into(), &level.into()));
        }
        let json: Value =
            serde_json::from_str(&served(LogFormat::Json, &line("GET", "/\x1b", None))).unwrap();
        assert_eq!(json["message"], "GET /\\u{1b} 200");
        assert_eq!((&json["target"], &json["level"]), (&"/\x1b".into(), &"info".into()));
    }
}

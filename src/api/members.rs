//! The members of a line of NDJSON that comes in: a request of a batch, or a key
//! with its value as a list has it.
//!
//! This file alone knows how JSON is parsed. The meaning of the members is that of
//! whoever asks for them.

use super::Refusal;
use crate::storage::COPIED_BYTES_MAX;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_core::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use std::borrow::Cow;
use std::fmt;

/// A text, borrowed from the line where it has no escapes there.
pub type Text<'a> = Option<Cow<'a, str>>;

/// The members of a line. Each is a text, and there at most once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Members<'a> {
    /// `method`, of a request.
    pub method: Text<'a>,
    /// `path`: path and query of a request.
    pub path: Text<'a>,
    /// `key`: a key as it is, not percent-encoded.
    pub key: Text<'a>,
    /// `value`: a value that is UTF-8.
    pub value: Text<'a>,
    /// `base64`: any value.
    pub base64: Text<'a>,
    /// `type`: the content type.
    pub content_type: Text<'a>,
    /// `if_match`, as the header field; the quotes of a single tag may be missing.
    pub if_match: Text<'a>,
    /// `if_none_match`, likewise.
    pub if_none_match: Text<'a>,
    /// `expires`: a moment in RFC 3339.
    pub expires: Text<'a>,
    /// `etag`: its value does not matter.
    pub has_etag: bool,
}

impl<'a> Members<'a> {
    /// The members of a line, with or without its end.
    pub fn parse(line: &'a [u8]) -> Result<Self, Refusal> {
        // All of it at once: else each text is looked at alone.
        let line = std::str::from_utf8(line).map_err(|_| Refusal::LineMalformed)?;
        serde_json::from_str(line).map_err(|err| match err.classify() {
            Category::Data => Refusal::LineMembers,
            Category::Io | Category::Syntax | Category::Eof => Refusal::LineMalformed,
        })
    }

    /// Returns true if nothing of them tells more of a request than what it is of.
    pub fn are_plain(&self) -> bool {
        let Self { content_type, if_match, if_none_match, expires, .. } = self;
        [content_type, if_match, if_none_match, expires].into_iter().all(Option::is_none)
    }

    /// The value, if there is one. A short text that is in the line as it is becomes part of
    /// a buffer by `share`.
    pub fn take_value(
        &mut self,
        share: impl FnOnce(&'a [u8]) -> Bytes,
    ) -> Result<Option<Bytes>, Refusal> {
        match (self.value.take(), self.base64.take()) {
            (Some(_), Some(_)) => Err(Refusal::ValueTwice),
            (Some(Cow::Borrowed(text)), None) if text.len() <= COPIED_BYTES_MAX => {
                Ok(Some(share(text.as_bytes())))
            }
            // A copy: a value that is kept must not keep all lines in memory.
            (Some(Cow::Borrowed(text)), None) => Ok(Some(Bytes::copy_from_slice(text.as_bytes()))),
            (Some(Cow::Owned(text)), None) => Ok(Some(text.into())),
            (None, Some(text)) => {
                let value = STANDARD.decode(&*text).map_err(|_| Refusal::Base64Malformed)?;
                Ok(Some(value.into()))
            }
            (None, None) => Ok(None),
        }
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OfMembers)
    }
}

struct OfMembers;

impl<'de> Visitor<'de> for OfMembers {
    type Value = Members<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Members::default();
        while let Some(OneText(name)) = map.next_key()? {
            let member = match &*name {
                "method" => &mut members.method,
                "path" => &mut members.path,
                "key" => &mut members.key,
                "value" => &mut members.value,
                "base64" => &mut members.base64,
                "type" => &mut members.content_type,
                "if_match" => &mut members.if_match,
                "if_none_match" => &mut members.if_none_match,
                "expires" => &mut members.expires,
                "etag" if !members.has_etag => {
                    members.has_etag = true;
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                _ => return Err(A::Error::custom("an unknown member, or one that was there")),
            };
            let OneText(text) = map.next_value()?;
            if member.replace(text).is_some() {
                return Err(A::Error::custom("a member that was there"));
            }
        }
        Ok(members)
    }
}

/// A text of JSON.
struct OneText<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for OneText<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(OfText).map(Self)
    }
}

struct OfText;

impl<'de> Visitor<'de> for OfText {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[allow(clippy::unnecessary_wraps, reason = "it is a member")]
    fn text(text: &str) -> Text<'_> {
        Some(Cow::Borrowed(text))
    }

    #[test]
    fn a_line_has_its_members_in_any_order() {
        let none = Members::default;
        let cases = [
            ("{}", none()),
            (" { } \r", none()),
            (r#"{"method":"GET","path":"/kv/a"}"#, {
                Members { method: text("GET"), path: text("/kv/a"), ..none() }
            }),
            ("\t{ \"value\" : \"1\" ,\r \"key\" : \"a\" }\r\n", {
                Members { key: text("a"), value: text("1"), ..none() }
            }),
            (r#"{"base64":"AA==","type":"a/b","if_match":"*","if_none_match":"*"}"#, {
                Members {
                    base64: text("AA=="),
                    content_type: text("a/b"),
                    if_match: text("*"),
                    if_none_match: text("*"),
                    ..none()
                }
            }),
            (r#"{"expires":"soon","etag":[{"a":1e999},null]}"#, {
                Members { expires: text("soon"), has_etag: true, ..none() }
            }),
            // The escapes of JSON, in names too.
            (r#"{"k\u0065y":"\"\\\/\b\f\n\r\t\u0000\u00e9\uD83D\udd11"}"#, {
                Members { key: text("\"\\/\u{8}\u{c}\n\r\t\0\u{e9}\u{1F511}"), ..none() }
            }),
            ("{\"key\":\"\u{e9}\u{2028}\u{7f}\u{1F511}\"}", {
                Members { key: text("\u{e9}\u{2028}\u{7f}\u{1F511}"), ..none() }
            }),
        ];
        for (line, members) in cases {
            assert_eq!(Members::parse(line.as_bytes()), Ok(members), "{line:?}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        let deep = "[".repeat(100_000);
        let deep = format!("{{\"etag\":{deep}");
        let lines = [
            "",
            " ",
            "\r",
            "{",
            "}",
            "key",
            "{key:\"a\"}",
            "{'key':'a'}",
            r#"{"key":"a"}}"#,
            r#"{"key":"a"}{"key":"b"}"#,
            r#"{"key":"a"} x"#,
            r#"{"key":"a",}"#,
            r#"{"key" "a"}"#,
            r#"{"key":"a" "value":"b"}"#,
            r#"{"key":"a"#,
            r#"{"key":"\x41"}"#,
            r#"{"key":"\u12"}"#,
            // Half a character.
            r#"{"key":"\ud83d"}"#,
            r#"{"key":"\ud83dx"}"#,
            r#"{"key":"\ud83d\u0041"}"#,
            r#"{"key":"\udd11"}"#,
            // Control characters as they are.
            "{\"key\":\"a\tb\"}",
            "{\"key\":\"a\0b\"}",
            "{\"key\":\"a\nb\"}",
            // A byte order mark.
            "\u{feff}{}",
            r#"{"etag":01}"#,
            r#"{"etag":NaN}"#,
            r#"{"key":1e400}"#,
            &deep,
        ];
        for line in lines {
            let parsed = Members::parse(line.as_bytes());
            assert_eq!(parsed, Err(Refusal::LineMalformed), "{line:.80?}");
        }
        for line in [&b"{\"key\":\"\xff\"}"[..], b"{\"key\":\"\xed\xa0\x80\"}", b"\xff", b"{\xff}"]
        {
            assert_eq!(Members::parse(line), Err(Refusal::LineMalformed), "{line:?}");
        }
    }

    #[test]
    fn json_that_has_other_members_is_refused() {
        for line in [
            "null",
            "1",
            "\"key\"",
            "[]",
            r#"["PUT","/kv/a"]"#,
            r#"{"vaule":"a"}"#,
            r#"{"Key":"a"}"#,
            r#"{"":"a"}"#,
            r#"{"key":1}"#,
            r#"{"key":123456789012345678901234567890}"#,
            r#"{"key":null}"#,
            r#"{"key":true}"#,
            r#"{"key":["a"]}"#,
            r#"{"key":{"a":"b"}}"#,
            r#"{"key":"a","key":"a"}"#,
            r#"{"key":"a","k\u0065y":"b"}"#,
            r#"{"etag":1,"etag":1}"#,
        ] {
            assert_eq!(Members::parse(line.as_bytes()), Err(Refusal::LineMembers), "{line:?}");
        }
    }

    #[test]
    fn a_value_is_given_once() {
        let value = |line: &'static str| {
            Members::parse(line.as_bytes())
                .and_then(|mut members| members.take_value(Bytes::copy_from_slice))
        };
        assert_eq!(value("{}"), Ok(None));
        assert_eq!(value(r#"{"value":"a"}"#), Ok(Some("a".into())));
        assert_eq!(value(r#"{"value":"\n"}"#), Ok(Some("\n".into())));
        assert_eq!(value(r#"{"value":""}"#), Ok(Some(Bytes::new())));
        assert_eq!(value(r#"{"base64":""}"#), Ok(Some(Bytes::new())));
        assert_eq!(value(r#"{"base64":"AP\/+"}"#), Ok(Some((&b"\0\xff\xfe"[..]).into())));
        assert_eq!(value(r#"{"base64":"AA=="}"#), Ok(Some((&b"\0"[..]).into())));
        for line in [r#"{"base64":"AA"}"#, r#"{"base64":"A"}"#, r#"{"base64":"AA==\n"}"#] {
            assert_eq!(value(line), Err(Refusal::Base64Malformed), "{line}");
        }
        assert_eq!(value(r#"{"value":"a","base64":"AA=="}"#), Err(Refusal::ValueTwice));
    }

    proptest! {
        #[test]
        fn any_bytes_are_members_or_refused(line in prop::collection::vec(any::<u8>(), 0..40)) {
            let is_object = line.contains(&b'{');
            prop_assert!(is_object || Members::parse(&line).is_err());
        }

        #[test]
        fn a_text_comes_as_it_was_meant(key: String, value: String) {
            let line = serde_json::to_string(&key).and_then(|key| {
                let value = serde_json::to_string(&value)?;
                Ok(format!("{{\"key\":{key},\"value\":{value}}}"))
            });
            let line = line.unwrap();
            let members = Members { key: text(&key), value: text(&value), ..Members::default() };
            prop_assert_eq!(Members::parse(line.as_bytes()), Ok(members));
        }
    }
}

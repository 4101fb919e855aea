use super::*;
use proptest::prelude::*;

#[test]
fn well_formed_types_are_stored_as_they_are() {
    for field in [
        "text/plain",
        "TEXT/Plain; Charset=UTF-8",
        "text/plain;charset=\"utf-8\"",
        "application/vnd.api+json",
        "a/b",
        "*/*",
        "multipart/form-data; boundary=----x",
        "text/plain; a=b;c=d ; e=\"f;\\\"g\\\\ \t,\"",
        "text/plain; a=\"\"",
        "text/plain;",
        "text/plain;; ;a=b;",
        "text/plain \t;\t a=b",
        "application/x-www-form-urlencodedd",
    ] {
        assert_eq!(check(field), Ok(Some(field)), "{field:?}");
    }
    assert_eq!(check(" text/plain; a=b\t"), Ok(Some("text/plain; a=b")));
}

#[test]
fn the_type_of_forms_counts_as_none() {
    for field in [
        "application/x-www-form-urlencoded",
        "Application/X-WWW-Form-URLEncoded",
        "application/x-www-form-urlencoded; charset=utf-8",
        " application/x-www-form-urlencoded ;a=b",
    ] {
        assert_eq!(check(field), Ok(None), "{field:?}");
    }
}

#[test]
fn malformed_types_are_refused() {
    for field in [
        "",
        " ",
        "text",
        "text/",
        "/plain",
        "/",
        "text//plain",
        "text/plain/x",
        "text / plain",
        "text/ plain",
        "text/pl ain",
        "text/plain, text/html",
        "text/plain charset=utf-8",
        "text/plain; charset",
        "text/plain; charset=",
        "text/plain; =utf-8",
        "text/plain; charset =utf-8",
        "text/plain; charset= utf-8",
        "text/plain; charset=a b",
        "text/plain; charset=\"utf-8",
        "text/plain; charset=\"utf-8\\\"",
        "text/plain; charset=\"utf-8\"x",
        "text/plain; charset=\"",
        "text/plain; charset=\"\\",
        "text/plain\r\nSet-Cookie: a=b",
        "text/plain; a=\"\r\nSet-Cookie: a=b\"",
        "text/plain; a=\"\\\n\"",
        "text/plain; a=\"\0\"",
        "text/plain; a=\"\u{7f}\"",
        "text/plain; a=\"\u{e9}\"",
        "text/plain; a=\"\\\u{e9}\"",
        "text/pla\u{ef}n",
        "text/plain\n",
        "\u{a0}text/plain",
        "application/x-www-form-urlencoded; a",
    ] {
        assert_eq!(check(field), Err(Refusal::TypeMalformed), "{field:?}");
    }
}

#[test]
fn a_type_has_a_limit() {
    let longest = format!("a/{}", "b".repeat(MEDIA_TYPE_BYTES_MAX - 2));
    assert_eq!(check(&format!(" {longest} ")), Ok(Some(longest.as_str())));
    assert_eq!(check(&format!("{longest}b")), Err(Refusal::TypeMalformed));
}

#[test]
fn what_a_browser_would_run_is_active() {
    for media_type in [
        "text/html",
        "TEXT/HTML; charset=utf-8",
        "text/html ;a=\"text/plain\"",
        "application/xhtml+xml",
        "image/svg+xml",
        "Image/SVG+XML; charset=utf-8",
        "video/x+xml",
        "text/xml",
        "application/xml",
        "application/atom+xml",
        "text/xsl",
        "text/javascript",
        "application/javascript",
        "application/ecmascript",
        "text/css",
        "application/pdf",
        "multipart/x-mixed-replace; boundary=a",
        "message/rfc822",
        "application/x-shockwave-flash",
        "model/x",
        "*/*",
        "text/plainx",
        "text/plain, text/html",
        "image",
        "",
    ] {
        assert!(is_active(media_type), "{media_type:?}");
    }
}

#[test]
fn what_a_browser_only_shows_or_plays_is_passive() {
    for media_type in [
        "text/plain",
        "Text/Plain; charset=utf-8",
        "text/plain ; a=\"text/html\"",
        "text/csv",
        "application/json",
        "application/octet-stream",
        "image/png",
        "IMAGE/JPEG",
        "audio/ogg",
        "video/mp4; codecs=\"avc1\"",
        "font/woff2",
    ] {
        assert!(!is_active(media_type), "{media_type:?}");
    }
}

/// Types as the grammar allows them, within what is stored.
fn well_formed() -> impl Strategy<Value = String> {
    let quoted = r#""([ \t!#-\[\]-~]|\\[ \t!-~]){0,9}""#;
    let parameter = format!("[a-z*'`%]{{1,5}}=([a-z]{{1,5}}|{quoted})");
    (
        "[a-z0-9+.-]{1,9}/[A-Z0-9!#$&^_|~]{1,9}",
        prop::collection::vec(("[ \t]{0,2};[ \t]{0,2}", prop::option::of(regex(&parameter))), 0..5),
    )
        .prop_map(|(mut text, parameters)| {
            for (separator, parameter) in parameters {
                text.push_str(&separator);
                text.push_str(&parameter.unwrap_or_default());
            }
            text
        })
}

/// Texts that come close to a type.
fn nearly() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "a/b ?; ?c=\"?.{0,6}\"?",
        "[a/;=\"\\\\ \r\n\u{e9}]{0,9}",
        well_formed(),
    ]
}

fn regex(pattern: &str) -> impl Strategy<Value = String> + use<> {
    proptest::string::string_regex(pattern).expect("a regular expression")
}

proptest! {
    #[test]
    fn every_well_formed_type_is_stored(field in well_formed()) {
        prop_assert_eq!(check(&field), Ok(Some(field.trim_matches(OWS))));
    }

    /// Whatever is stored can be sent, and is understood again.
    #[test]
    fn what_is_stored_injects_nothing(field in nearly()) {
        if let Ok(Some(stored)) = check(&field) {
            prop_assert!(stored.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')));
            prop_assert!(!stored.is_empty() && stored.len() <= MEDIA_TYPE_BYTES_MAX);
            prop_assert_eq!(check(stored), Ok(Some(stored)));
        }
    }

    #[test]
    fn a_control_character_is_never_stored(
        field in well_formed(),
        control in "[\u{0}-\u{8}\u{a}-\u{1f}\u{7f}\u{80}-\u{9f}]",
        at: prop::sample::Index,
    ) {
        let mut field = field;
        field.insert_str(at.index(field.len() + 1), &control);
        prop_assert_eq!(check(&field), Err(Refusal::TypeMalformed));
    }
}

use super::*;
use proptest::prelude::*;

type Fields<'a> = &'a [(&'a str, &'a str)];

fn check(version: u8, fields: Fields<'_>) -> Result<Framing, Refusal> {
    ParsedHead { method: "PUT", target: "/kv/a", version, fields }.check()
}

/// A well-framed HTTP/1.1 head with these fields beside its `Host`.
fn check_new(fields: Fields<'_>) -> Result<Framing, Refusal> {
    check(1, &[&[("Host", "a")], fields].concat())
}

#[test]
fn a_length_is_digits_and_nothing_else() {
    for (value, bytes) in [("0", 0), ("5", 5), ("007", 7), ("10485760", 10_485_760)] {
        let framing = check_new(&[("Content-Length", value)]).expect(value);
        assert_eq!(framing.length, Length::Known(bytes), "{value}");
    }
    for value in ["", "+5", "-1", "5, 5", "5,5", "0x5", "5 5", "5.0", "1e3", "five"] {
        let checked = check_new(&[("content-length", value)]);
        assert_eq!(checked, Err(Refusal::LengthMalformed), "{value:?}");
    }
    let huge = "1".repeat(30);
    assert_eq!(check_new(&[("Content-Length", &huge)]), Err(Refusal::ValueTooLarge));
}

#[test]
fn framing_is_never_guessed() {
    let cases: [(Fields<'_>, Refusal); 13] = [
        (&[("Content-Length", "5"), ("Content-Length", "5")], Refusal::LengthRepeated),
        (&[("Content-Length", "5"), ("content-length", "6")], Refusal::LengthRepeated),
        (&[("Content-Length", "5"), ("Transfer-Encoding", "chunked")], Refusal::LengthAndCoding),
        (&[("Transfer-Encoding", "chunked"), ("Content-Length", "x")], Refusal::LengthAndCoding),
        (&[("Transfer-Encoding", "gzip, chunked")], Refusal::CodingUnknown),
        (&[("Transfer-Encoding", "identity")], Refusal::CodingUnknown),
        (&[("Transfer-Encoding", "")], Refusal::CodingUnknown),
        (&[("Transfer-Encoding", "chunked;a=b")], Refusal::CodingUnknown),
        (&[("Transfer-Encoding", "xchunked")], Refusal::CodingUnknown),
        (&[("Transfer-Encoding", "chunked, gzip")], Refusal::CodingOrder),
        (&[("Transfer-Encoding", "Chunked ,chunked")], Refusal::CodingOrder),
        (
            &[("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
            Refusal::CodingRepeated,
        ),
        (&[("Host", "b")], Refusal::HostCount),
    ];
    for (fields, err) in cases {
        assert_eq!(check_new(fields), Err(err), "{fields:?}");
    }
}

#[test]
fn chunked_is_the_one_coding_and_needs_the_new_version() {
    for value in ["chunked", "Chunked", "CHUNKED"] {
        let framing = check_new(&[("Transfer-Encoding", value)]).expect(value);
        assert_eq!(framing.length, Length::Chunked);
    }
    let old = check(0, &[("Transfer-Encoding", "chunked")]);
    assert_eq!(old, Err(Refusal::CodingInOldVersion));
}

#[test]
fn a_host_is_a_name_with_an_optional_port() {
    for host in ["", "a", "a.example:8888", "[::1]:8888", "localhost", "A_b-c~%41", "1.2.3.4"] {
        assert!(check(1, &[("Host", host)]).is_ok(), "{host:?}");
        assert!(check(0, &[("Host", host)]).is_ok(), "{host:?}");
    }
    for host in ["a/b", "user@a", "a,b", "a b", "a?b", "a#b", "a\\b", "é", "\u{fffd}", "a\tb"] {
        assert_eq!(check(1, &[("Host", host)]), Err(Refusal::HostMalformed), "{host:?}");
        assert_eq!(check(0, &[("Host", host)]), Err(Refusal::HostMalformed), "{host:?}");
    }
    assert_eq!(check(1, &[]), Err(Refusal::HostCount));
    assert!(check(0, &[]).is_ok());
}

#[test]
fn the_request_line_has_no_bytes_that_do_not_belong_there() {
    let check = |method, target| {
        ParsedHead { method, target, version: 1, fields: &[("Host", "a")] }.check().err()
    };
    assert_eq!(check("GET", "/kv/%00"), None);
    assert_eq!(check("BREW-IT", "*"), None);
    for method in ["", "G T", "G\0T", "G\tT", "(GET)"] {
        assert_eq!(check(method, "/"), Some(Refusal::MethodMalformed), "{method:?}");
    }
    for target in ["", "/a b", "/a\tb", "/a\0", "/a\r", "/a\nb", "/\u{7f}", "/\u{e9}"] {
        assert_eq!(check("GET", target), Some(Refusal::TargetBytes), "{target:?}");
    }
    let longest = "/".repeat(TARGET_BYTES_MAX);
    assert_eq!(check("GET", &longest), None);
    assert_eq!(check("GET", &format!("{longest}/")), Some(Refusal::TargetTooLong));
}

#[test]
fn header_fields_are_clean() {
    for name in ["", "X Y", "X:Y", "X\0", "[x]", "X\u{e9}"] {
        assert_eq!(check_new(&[(name, "v")]), Err(Refusal::FieldNameMalformed), "{name:?}");
    }
    for value in ["a\nContent-Length: 5", "a\rb", "a\0b", "\u{7f}", "\u{b}chunked"] {
        assert_eq!(check_new(&[("X", value)]), Err(Refusal::FieldValueMalformed), "{value:?}");
    }
    // Bytes beyond ASCII are allowed (RFC 9110, 5.5).
    assert!(check_new(&[("X", ""), ("X", "a\tb c"), ("Remote-Name", "J\u{f6}rg")]).is_ok());
}

#[test]
fn one_expectation_is_known_and_new() {
    let awaited: Fields<'_> = &[("Content-Length", "5"), ("Expect", "100-Continue")];
    assert!(check_new(awaited).expect("well framed").expects_continue);
    assert!(!check(0, awaited).expect("well framed").expects_continue);
    for expectation in ["", "200-ok", "100-continue, x"] {
        let checked = check_new(&[("Expect", expectation)]);
        assert_eq!(checked, Err(Refusal::ExpectationUnknown), "{expectation:?}");
    }
}

#[test]
fn a_wish_to_upgrade_is_ignored() {
    let upgrade: Fields<'_> = &[
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("Upgrade", "h2c"),
        ("Transfer-Encoding", "chunked"),
    ];
    let framing = check_new(upgrade).expect("well framed");
    assert_eq!((framing.length, framing.persistence), (Length::Chunked, Persistence::KeepAlive));
}

#[test]
fn a_connection_stays_open_as_its_version_and_fields_say() {
    let cases: [(u8, Fields<'_>, Persistence); 9] = [
        (1, &[], Persistence::KeepAlive),
        (1, &[("Connection", "close")], Persistence::Close),
        (1, &[("Connection", "x, Close")], Persistence::Close),
        (1, &[("Connection", "keep-alive"), ("Connection", "close")], Persistence::Close),
        (1, &[("Connection", "closed, x-close-notify")], Persistence::KeepAlive),
        (1, &[("Connection", "upgrade")], Persistence::KeepAlive),
        (0, &[], Persistence::Close),
        (0, &[("Connection", "Keep-Alive")], Persistence::KeepAliveNamed),
        (0, &[("Connection", "close, keep-alive")], Persistence::Close),
    ];
    for (version, fields, persistence) in cases {
        let fields = [&[("Host", "a")], fields].concat();
        let framing = check(version, &fields).expect("well framed");
        assert_eq!(framing.persistence, persistence, "{version} {fields:?}");
    }
}

/// Heads as real clients send them.
#[test]
fn requests_of_real_clients_are_well_framed() {
    let curl: Fields<'_> = &[
        ("Host", "127.0.0.1:8888"),
        ("User-Agent", "curl/8.5.0"),
        ("Accept", "*/*"),
        ("Content-Length", "7"),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ];
    let upload: Fields<'_> = &[
        ("Host", "[::1]:8888"),
        ("User-Agent", "curl/7.88.1"),
        ("Accept", "*/*"),
        ("Transfer-Encoding", "chunked"),
        ("Expect", "100-continue"),
    ];
    let browser: Fields<'_> = &[
        ("Host", "localhost:8888"),
        ("Connection", "keep-alive"),
        ("Sec-Ch-Ua", "\"Chromium\";v=\"120\", \"Not?A_Brand\";v=\"8\""),
        ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"),
        ("Accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"),
        ("Cookie", "a=b; c=\"d\""),
    ];
    let python: Fields<'_> = &[
        ("Host", "localhost:8888"),
        ("Accept-Encoding", "gzip, deflate"),
        ("Accept", "*/*"),
        ("Connection", "keep-alive"),
        ("Content-Length", "2048"),
    ];
    let proxy: Fields<'_> = &[
        ("X-Forwarded-For", "10.0.0.1, 10.0.0.2"),
        ("Host", "store"),
        ("Connection", "close"),
        ("Via", "1.1 proxy"),
    ];
    for fields in [curl, upload, browser, python, proxy] {
        assert!(check(1, fields).is_ok(), "{fields:?}");
    }
    let bench: Fields<'_> = &[
        ("Connection", "Keep-Alive"),
        ("Host", "127.0.0.1:8888"),
        ("User-Agent", "ApacheBench/2.3"),
    ];
    let framing = check(0, bench).expect("well framed");
    assert_eq!(framing.persistence, Persistence::KeepAliveNamed);
}

proptest! {
    /// Whatever the fields are, a head that passes has exactly one reading.
    #[test]
    fn a_head_that_passes_is_unambiguous(
        version in 0..=1_u8,
        fields in prop::collection::vec((field_name(), field_value()), 0..8),
    ) {
        let borrowed: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let Ok(framing) = check(version, &borrowed) else { return Ok(()) };

        let values = |name: &str| -> Vec<&str> {
            let named = borrowed.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
            named.map(|(_, v)| *v).collect()
        };
        let (lengths, codings) = (values("Content-Length"), values("Transfer-Encoding"));
        prop_assert!(lengths.len() + codings.len() <= 1);
        prop_assert!(values("Host").len() <= 1);
        match framing.length {
            Length::Chunked => prop_assert_eq!(codings.len(), 1),
            Length::Known(bytes) => {
                let announced = lengths.first().map_or(Ok(0), |digits| digits.parse::<u64>());
                prop_assert_eq!(announced, Ok(bytes));
            }
        }
    }

    #[test]
    fn no_text_makes_the_check_panic(method: String, target: String, name: String, value: String) {
        let fields = &[("Host", "a"), (name.as_str(), value.as_str())];
        let head = ParsedHead { method: &method, target: &target, version: 1, fields };
        let clean = head.check().is_err() || (method.is_ascii() && target.is_ascii());
        prop_assert!(clean);
    }
}

fn field_name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("Host".to_owned()),
        Just("Content-Length".to_owned()),
        Just("content-length".to_owned()),
        Just("Transfer-Encoding".to_owned()),
        Just("Connection".to_owned()),
        Just("Expect".to_owned()),
        "[ -~]{0,6}",
    ]
}

fn field_value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9]{0,22}",
        Just("chunked".to_owned()),
        Just("close".to_owned()),
        Just("keep-alive".to_owned()),
        Just("upgrade".to_owned()),
        Just("100-continue".to_owned()),
        "[ -~]{0,6}",
        ".{0,3}",
    ]
}

use super::*;
use proptest::prelude::*;

const OURS: EntityTag =
    EntityTag(*b"\x2c\xf2\x4d\xba\x5f\xb0\xa3\x0e\x26\xe8\x3b\x2a\xc5\xb9\xe2\x9e");
const OURS_QUOTED: &str = "\"2cf24dba5fb0a30e26e83b2ac5b9e29e\"";
const OTHER: EntityTag = EntityTag([0; 16]);

fn parse(fields: &[&str]) -> Option<Tags> {
    Tags::parse(fields.iter().copied())
}

/// A tag as a client writes it.
fn written(weak: bool, opaque: &str) -> String {
    [if weak { "W/" } else { "" }, "\"", opaque, "\""].concat()
}

fn strong(opaque: &str) -> Tag {
    Tag { weak: false, opaque: opaque.into() }
}

fn weak(opaque: &str) -> Tag {
    Tag { weak: true, opaque: opaque.into() }
}

#[test]
fn our_tags_are_32_quoted_digits() {
    assert_eq!(OURS.to_field().as_str(), OURS_QUOTED);
    assert_eq!(OTHER.to_field().as_str(), format!("\"{}\"", "0".repeat(32)));
    assert_eq!(EntityTag([0xff; 16]).to_field().as_str(), format!("\"{}\"", "f".repeat(32)));
    assert_eq!(
        parse(&[OURS.to_field().as_str()]),
        Some(Tags::Listed(vec![strong(&OURS_QUOTED[1..33])]))
    );
}

#[test]
fn lists_of_tags_read_as_http_writes_them() {
    let cases: [(&[&str], &[Tag]); 11] = [
        (&["\"a\""], &[strong("a")]),
        (&["\"\""], &[strong("")]),
        (&["W/\"a\""], &[weak("a")]),
        (&["\"a\", W/\"b\",\"c\""], &[strong("a"), weak("b"), strong("c")]),
        (&["\"a,b\" ,\t\",\""], &[strong("a,b"), strong(",")]),
        (&["\"*\"", "\"W/\""], &[strong("*"), strong("W/")]),
        (&["\"a\"", "\"b\""], &[strong("a"), strong("b")]),
        (&[", ,\"a\",, ,\"b\" , "], &[strong("a"), strong("b")]),
        (&["", "\"a\"", " "], &[strong("a")]),
        (&["\"a\\\""], &[strong("a\\")]),
        (&["\"!#~\u{e9}\""], &[strong("!#~\u{e9}")]),
    ];
    for (fields, listed) in cases {
        assert_eq!(parse(fields), Some(Tags::Listed(listed.to_vec())), "{fields:?}");
    }
    assert_eq!(parse(&["*"]), Some(Tags::Any));
    assert_eq!(parse(&[" *\t"]), Some(Tags::Any));
}

#[test]
fn what_is_no_list_of_tags_is_refused() {
    let cases: [&[&str]; 26] = [
        &[],
        &[""],
        &[" , ,"],
        &["", ""],
        &["a"],
        &["\"a"],
        &["a\""],
        &["\""],
        &["W/"],
        &["W/a"],
        &["W/*"],
        &["W \"a\""],
        &["W/ \"a\""],
        &["w/\"a\""],
        &["\"a\" \"b\""],
        &["\"a\"\"b\""],
        &["\"a\";\"b\""],
        &["\"a b\""],
        &["\"a\tb\""],
        &["\"a\u{7f}\""],
        &["\"a", "b\""],
        &["'a'"],
        &["*, \"a\""],
        &["\"a\"", "*"],
        &["*", "*"],
        &["**"],
    ];
    for fields in cases {
        assert_eq!(parse(fields), None, "{fields:?}");
    }
}

#[test]
fn a_list_has_a_limit() {
    let longest = vec!["\"a\""; TAGS_MAX].join(",");
    assert!(parse(&[&longest]).is_some());
    assert!(parse(&[&longest, ","]).is_some());
    assert!(parse(&[&longest, "\"a\""]).is_none());
}

#[test]
fn a_weak_tag_matches_weakly_only() {
    let cases = [
        (OURS_QUOTED, Some(OURS), (true, true)),
        (OURS_QUOTED, Some(OTHER), (false, false)),
        (OURS_QUOTED, None, (false, false)),
        ("W/\"2cf24dba5fb0a30e26e83b2ac5b9e29e\"", Some(OURS), (false, true)),
        ("\"x\", \"2cf24dba5fb0a30e26e83b2ac5b9e29e\"", Some(OURS), (true, true)),
        ("\"2CF24DBA5FB0A30E26E83B2AC5B9E29E\"", Some(OURS), (false, false)),
        ("\"2cf24dba5fb0a30e26e83b2ac5b9e29\"", Some(OURS), (false, false)),
        ("*", Some(OURS), (true, true)),
        ("*", None, (false, false)),
    ];
    for (field, current, (strongly, weakly)) in cases {
        let tags = parse(&[field]).expect(field);
        assert_eq!(tags.matches_strongly(current), strongly, "{field} {current:?}");
        assert_eq!(tags.matches_weakly(current), weakly, "{field} {current:?}");
    }
}

#[test]
fn conditions_are_judged_in_order() {
    let (ours, any, other) = (parse(&[OURS_QUOTED]), parse(&["*"]), parse(&["\"x\""]));
    let cases = [
        (None, None, Precondition::Holds, Precondition::Holds),
        (ours.clone(), None, Precondition::Holds, Precondition::Failed),
        (any.clone(), None, Precondition::Holds, Precondition::Failed),
        (other.clone(), None, Precondition::Failed, Precondition::Failed),
        (None, ours.clone(), Precondition::NotModified, Precondition::Holds),
        (None, any.clone(), Precondition::NotModified, Precondition::Holds),
        (None, other.clone(), Precondition::Holds, Precondition::Holds),
        (other, any.clone(), Precondition::Failed, Precondition::Failed),
        (ours, any, Precondition::NotModified, Precondition::Failed),
    ];
    for (if_match, if_none_match, there, absent) in cases {
        let (if_match, if_none_match) = (if_match.map(Box::new), if_none_match.map(Box::new));
        let conditions = Conditions { if_match, if_none_match };
        assert_eq!(conditions.evaluate(Some(OURS)), there, "{conditions:?}");
        assert_eq!(conditions.evaluate(None), absent, "{conditions:?}");
        assert_eq!(conditions.is_empty(), conditions == Conditions::default());
    }
}

#[test]
fn only_the_strong_tag_of_the_value_lets_a_range_be_taken() {
    assert!(if_range_holds(OURS_QUOTED, OURS));
    assert!(if_range_holds(&format!(" {OURS_QUOTED}\t"), OURS));
    assert!(!if_range_holds(OURS_QUOTED, OTHER));
    for field in [
        "",
        "*",
        "\"x\"",
        "2cf24dba5fb0a30e26e83b2ac5b9e29e",
        "W/\"2cf24dba5fb0a30e26e83b2ac5b9e29e\"",
        "\"2cf24dba5fb0a30e26e83b2ac5b9e29e\", \"x\"",
        "\"2cf24dba5fb0a30e26e83b2ac5b9e29e\",",
        "Tue, 15 Nov 1994 12:45:26 GMT",
    ] {
        assert!(!if_range_holds(field, OURS), "{field:?}");
    }
}

proptest! {
    /// However a client spreads its list over commas, spaces and fields.
    #[test]
    fn every_list_reads_back(
        members in prop::collection::vec(
            (any::<bool>(), "[!#-~\u{e9}]{0,8}", gap(), any::<bool>()),
            1..12,
        ),
    ) {
        let mut fields = vec![String::new()];
        for (weak, opaque, gap, splits) in &members {
            let field = fields.last_mut().expect("there is always a field");
            field.push_str(&written(*weak, opaque));
            field.push_str(gap);
            if *splits {
                fields.push(gap.replace(',', " "));
            }
        }
        let tag = |(weak, opaque, _, _): (_, String, _, _)| Tag { weak, opaque: opaque.into() };
        let listed = members.into_iter().map(tag).collect();
        let parsed = Tags::parse(fields.iter().map(String::as_str));
        prop_assert_eq!(parsed, Some(Tags::Listed(listed)));
    }

    /// What is read is what was written: nothing is skipped but commas and
    /// spaces, and nothing is made up.
    #[test]
    fn nothing_between_two_tags_is_skipped(
        field in r#"[W/"a, *]{0,12}|(W?/?"a?,?"?[ ,]{0,2}){0,4}"#,
    ) {
        let Some(Tags::Listed(tags)) = parse(&[&field]) else { return Ok(()) };
        let written: String = tags.iter().map(|tag| written(tag.weak, &tag.opaque)).collect();
        let essence = |text: &str| text.replace([' ', ','], "");
        prop_assert_eq!(essence(&written), essence(&field));
        prop_assert!(!written.contains(' '));
    }

    #[test]
    fn a_tag_matches_itself_and_no_other(one: [u8; 16], other: [u8; 16]) {
        let (one, other) = (EntityTag(one), EntityTag(other));
        let tags = parse(&[one.to_field().as_str()]).expect("one tag");
        prop_assert!(tags.matches_strongly(Some(one)) && if_range_holds(one.to_field().as_str(), one));
        prop_assert_eq!(tags.matches_weakly(Some(other)), one == other);
    }

    #[test]
    fn no_text_makes_the_parsing_panic(field: String) {
        let parsed = parse(&[&field]);
        prop_assert!(!if_range_holds(&field, OURS));
        prop_assert!(parsed.is_none() || field.contains(['"', '*']));
    }
}

/// What may be between two members: a comma at least.
fn gap() -> impl Strategy<Value = String> {
    "[ \t]{0,2},[ \t,]{0,3}"
}

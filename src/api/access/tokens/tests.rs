use super::*;
use crate::api::access::Right;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

const TOKEN: &str = "a-token-of-tests";
const OTHER: &str = "another-token-of-tests";
// printf a-token-of-tests | sha256sum
const DIGEST: &str = "2790ea26a8a8fadabc24a2a419724b02daed32320676df533e803f8a0f55a869";

/// The rights of a token in a text, as far as these keys tell: reading and writing of
/// `users:1` and of `other`.
fn rights_in(text: &str, token: &str) -> Result<[bool; 4], Refusal> {
    let tokens = Tokens::new(TokenSet::parse(text).unwrap_or_else(|err| panic!("{err}")));
    rights_of(&tokens, &format!("Bearer {token}"))
}

fn rights_of(tokens: &Tokens, field: &str) -> Result<[bool; 4], Refusal> {
    let rights = tokens.rights(Fields(&[("Authorization", field)]))?;
    Ok([(Right::Read, "users:1"), (Right::Write, "users:1"), (Right::Read, "other")]
        .into_iter()
        .chain([(Right::Write, "other")])
        .map(|(right, key)| rights.check_key(right, key).is_ok())
        .collect::<Vec<_>>()
        .try_into()
        .expect("four of them"))
}

const ALL: [bool; 4] = [true, true, true, true];
const READER: [bool; 4] = [true, false, true, false];
const USERS: [bool; 4] = [true, true, false, false];
const USERS_READER: [bool; 4] = [true, false, false, false];

#[test]
fn a_line_is_a_token_a_right_and_prefixes() {
    let long = format!("rw {} users:", "x".repeat(1024));
    let table = [
        ("", ALL),
        (" ", ALL),
        ("rw", ALL),
        ("ro", READER),
        ("\tro ", READER),
        ("users:", USERS),
        ("rw users:", USERS),
        ("rw users", USERS),
        ("rw groups: users:", USERS),
        ("groups: users:", USERS),
        ("ro users: groups:", USERS_READER),
        ("ro %75sers%3A", USERS_READER),
        ("ro users:1", USERS_READER),
        (&long, USERS),
        ("# the owner", ALL),
        ("#ro", ALL),
        ("ro # rw", READER),
        ("ro users: #other", USERS_READER),
        ("ro users:#", [false; 4]),
        ("ro %23 %2575sers", [false; 4]),
    ];
    for (rest, rights) in table {
        for (start, end) in [("", ""), ("", "\n"), ("# all\n\n \t\n", "\r\n\r\n")] {
            for token in [TOKEN.to_owned(), format!("sha256:{DIGEST}")] {
                let text = format!("{start}{OTHER}\r\n  {token} {rest}{end}");
                assert_eq!(rights_in(&text, TOKEN), Ok(rights), "{text:?}");
                assert_eq!(rights_in(&text, OTHER), Ok(ALL), "{text:?}");
                assert_eq!(rights_in(&text, DIGEST), Err(Refusal::Unauthorized));
            }
        }
    }
    let upper = format!("SHA256:{}", DIGEST.to_uppercase());
    assert_eq!(rights_in(&upper, TOKEN), Ok(ALL));
    for token in [TOKEN, &"~".repeat(1024), "#=:%#,\"'\\?+&@/#!", "sha256sha256sha256"] {
        let text = format!("  {token}");
        let is_comment = token.starts_with('#');
        assert_eq!(TokenSet::parse(&text).is_err(), is_comment, "{token}");
        assert_eq!(
            rights_of(&Tokens::new(TokenSet::of_one(token).unwrap()), &format!("bearer {token}")),
            Ok(ALL)
        );
    }
}

#[test]
fn a_bad_line_is_told_and_shows_no_word_of_it() {
    let digest = DIGEST;
    let table = [
        ("a-token-of-test", InvalidToken::TooShort),
        ("ro", InvalidToken::TooShort),
        ("\u{e4}-token-of-tests-of-ours", InvalidToken::Characters),
        ("a-token\u{a0}of-tests", InvalidToken::Characters),
        ("a-token\rof-tests-of-ours", InvalidToken::Characters),
        ("a\0-\0t\0o\0k\0e\0n\0o\0f\0u\0s\0", InvalidToken::Characters),
        (&"x".repeat(1025), InvalidToken::TooLong),
        ("sha256:", InvalidToken::Digest),
        (&format!("sha256:{digest}0"), InvalidToken::Digest),
        (&format!("sha256:{}", &digest[1..]), InvalidToken::Digest),
        (&format!("Sha256:{}", digest.replace('a', "+")), InvalidToken::Digest),
        (&format!("sha256:{}\u{e4}", &digest[2..]), InvalidToken::Digest),
        (&format!("{TOKEN} rx"), InvalidToken::Right),
        (&format!("{TOKEN} RO"), InvalidToken::Right),
        (&format!("{TOKEN} readonly users:"), InvalidToken::Right),
        (&format!("{TOKEN} read-only users:"), InvalidToken::Right),
        (&format!("{TOKEN} ro: users:"), InvalidToken::Right),
        (&format!("{TOKEN} RO, users:"), InvalidToken::Right),
        (&format!("{TOKEN} [rw] users:"), InvalidToken::Right),
        (&format!("{TOKEN} -ro"), InvalidToken::Right),
        (&format!("{TOKEN} r/o users:"), InvalidToken::Right),
        (&format!("{TOKEN} users:1"), InvalidToken::Right),
        (&format!("{TOKEN} {TOKEN}"), InvalidToken::Right),
        (&format!("{TOKEN} users"), InvalidToken::Right),
        (&format!("{TOKEN} 1"), InvalidToken::Right),
        (&format!("{TOKEN} ro rw"), InvalidToken::RightMisplaced),
        (&format!("{TOKEN} users: ro"), InvalidToken::RightMisplaced),
        (&format!("{TOKEN} rw %"), InvalidToken::PrefixEscape),
        (&format!("{TOKEN} rw a%2"), InvalidToken::PrefixEscape),
        (&format!("{TOKEN} rw %FF"), InvalidToken::PrefixNotUtf8),
        (&format!("{TOKEN} rw \u{1}"), InvalidToken::PrefixControl),
        (&format!("{TOKEN} ro\rusers"), InvalidToken::Right),
        (&format!("{TOKEN} rw {}", "x".repeat(1025)), InvalidToken::PrefixTooLong),
        (OTHER, InvalidToken::Repeated { first: 2 }),
    ];
    for (line, what) in table {
        let text = format!("\n{OTHER} ro\r\n# a comment\n{line}\n{TOKEN}-3\n");
        let err = TokenSet::parse(&text).expect_err(line);
        assert_eq!(err, InvalidTokens { line: 4, what }, "{line:?}");
        let told = err.to_string();
        assert!(told.starts_with("line 4: "), "{told}");
        for word in line.split_whitespace().filter(|word| !matches!(*word, "ro" | "rw")) {
            let is_of_ours = matches!(word, "sha256:" | "users" | "1" | "%");
            assert!(is_of_ours || !told.contains(word), "{told}");
        }
    }
    let twice = format!("{TOKEN} ro\nsha256:{digest}\n");
    let repeated = InvalidTokens { line: 2, what: InvalidToken::Repeated { first: 1 } };
    assert_eq!(TokenSet::parse(&twice).err(), Some(repeated));
    for (text, line) in [("", 1), ("#\n\n", 2), ("\n \n# none", 3)] {
        let missing = InvalidTokens { line, what: InvalidToken::Missing };
        assert_eq!(TokenSet::parse(text).err(), Some(missing), "{text:?}");
    }
    for token in
        ["", "short", "a token of our tests", "a-token-of-tests\n", "\u{e4}aaaaaaaaaaaaaaaa"]
    {
        assert!(TokenSet::of_one(token).is_err(), "{token:?}");
    }
}

#[test]
fn nothing_shows_a_token_or_its_digest() {
    let text = format!("{TOKEN} ro\n{OTHER}\n");
    let tokens = Tokens::new(TokenSet::parse(&text).unwrap());
    assert_eq!(rights_of(&tokens, &format!("Bearer {TOKEN}")), Ok(READER));
    let shown = format!("{tokens:?} {:?}", TokenSet::of_one(TOKEN));
    assert!(shown.len() < 200 && !shown.contains(TOKEN), "{shown}");
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

#[test]
fn a_token_comes_as_bearer_or_as_the_password_of_basic() {
    let with_colons = "a:token:of:tests:";
    let of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let text = format!("{TOKEN} ro\n{with_colons} ro users:\nsha256:{of_nothing}\n");
    let tokens = Tokens::new(TokenSet::parse(&text).unwrap());
    let longer = |text: &str| format!("{text}{}", " ".repeat(FIELD_BYTES_KEPT));
    let unpadded = STANDARD_NO_PAD.encode(format!("me:{TOKEN}"));
    assert!(basic("me", TOKEN).ends_with('='), "it has padding");
    let good = [
        format!("Bearer {TOKEN}"),
        format!("bearer {TOKEN}"),
        format!("BEARER    {TOKEN}"),
        format!(" \tBearer {TOKEN}\t "),
        longer(&format!("Bearer {TOKEN}")),
        basic("", TOKEN),
        basic("me", TOKEN),
        basic("\u{e4}", TOKEN),
        basic(&"u".repeat(FIELD_BYTES_KEPT), TOKEN),
        format!("Basic {unpadded}"),
        format!("bAsIc  {unpadded} "),
    ];
    for field in &good {
        // The second time it is remembered.
        for time in ["first", "second"] {
            assert_eq!(rights_of(&tokens, field), Ok(READER), "{time} {field:?}");
        }
    }
    for field in [format!("Bearer {with_colons}"), basic("me", with_colons)] {
        assert_eq!(rights_of(&tokens, &field), Ok(USERS_READER), "{field}");
    }
    let bad = [
        String::new(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        TOKEN.to_owned(),
        format!("Bearer{TOKEN}"),
        format!("Bearer\t{TOKEN}"),
        format!("Bearer: {TOKEN}"),
        format!("Bearer \"{TOKEN}\""),
        format!("Bearer {TOKEN}, Bearer {TOKEN}"),
        format!("Bearer {TOKEN}x"),
        format!("Bearer {}", &TOKEN[1..]),
        format!("Bearer {}", TOKEN.to_uppercase()),
        format!("Bearer sha256:{DIGEST}"),
        format!("Bearer {OTHER}"),
        format!("Token {TOKEN}"),
        format!("Digest {TOKEN}"),
        format!("Basic {TOKEN}"),
        format!("Basic {}", STANDARD.encode(TOKEN)),
        basic(TOKEN, ""),
        basic("me:", TOKEN),
        basic("me", &format!("{TOKEN}\n")),
        basic("me", OTHER),
        format!("Basic {}=", STANDARD.encode(format!("me:{TOKEN}"))),
        format!("Basic ={unpadded}"),
        "Basic".to_owned(),
        "Basic %".to_owned(),
    ];
    for field in &bad {
        assert_eq!(rights_of(&tokens, field), Err(Refusal::Unauthorized), "{field:?}");
    }
    let good = good.map(|field| ("Authorization", field));
    let [one, other, ..] = good.each_ref().map(|(name, field)| (*name, &**field));
    assert_eq!(tokens.rights(Fields(&[])).err(), Some(Refusal::Unauthorized));
    for twice in [[one, other], [one, one], [one, ("authorization", "")]] {
        let refusal = tokens.rights(Fields(&twice)).err();
        assert_eq!(refusal, Some(Refusal::AuthorizationRepeated), "{twice:?}");
    }
}

#[test]
fn what_a_thread_remembers_is_of_one_set() {
    let field = format!("Bearer {TOKEN}");
    let of = |text: &str| TokenSet::parse(&format!("{text}\n{OTHER}")).unwrap();
    let reader = Tokens::new(of(&format!("{TOKEN} ro")));
    let users = Tokens::new(of(&format!("{TOKEN} users:")));
    let nobody = Tokens::new(of("a-third-token-of-tests"));
    for _ in 0..2 {
        assert_eq!(rights_of(&reader, &field), Ok(READER));
        assert_eq!(rights_of(&users, &field), Ok(USERS));
        assert_eq!(rights_of(&nobody, &field), Err(Refusal::Unauthorized));
    }
    assert_eq!(rights_of(&reader, &field), Ok(READER));
    let handle = reader.clone();
    handle.replace(of(&format!("{TOKEN} ro users:")));
    assert_eq!(rights_of(&reader, &field), Ok(USERS_READER));
    handle.replace(of("a-third-token-of-tests"));
    assert_eq!(rights_of(&reader, &field), Err(Refusal::Unauthorized));
    assert_eq!(rights_of(&reader, &format!("Bearer {OTHER}")), Ok(ALL));
}

#[test]
fn failures_are_counted_by_reason() {
    let tokens = Tokens::new(TokenSet::parse(&format!("{TOKEN} ro users:")).unwrap());
    tokens.rights(Fields(&[])).unwrap_err();
    for field in ["", "Bearer", "Basic !"] {
        rights_of(&tokens, field).unwrap_err();
    }
    // Three of the four are refused.
    assert_eq!(rights_of(&tokens, &format!("Bearer {TOKEN}")), Ok(USERS_READER));
    let mut exposition = Exposition::default();
    tokens.report(&mut exposition);
    let text = exposition.into_text();
    for (reason, count) in [("missing", 1), ("unknown", 3), ("forbidden", 3)] {
        let line = format!("\nlkv_auth_failures_total{{reason=\"{reason}\"}} {count}\n");
        assert!(text.contains(&line), "{text}");
    }
}

//! Digests of the content, which a client sends to have it checked on arrival:
//! `Content-Digest` and `Repr-Digest` (RFC 9530), which are the same here as
//! there are no codings, and `Content-MD5` (RFC 1864).

use super::Refusal;
use super::fields::Fields;
use super::grammar::{BASE64, OWS};
use base64::Engine as _;
use md5::Md5;
use sha2::{Digest as _, Sha256, Sha512};

/// The digests that the content must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    md5: Option<[u8; 16]>,
    sha256: Option<[u8; 32]>,
    sha512: Option<[u8; 64]>,
}

impl Digests {
    /// The digests of content that is taken whole and as it comes: a part of one, or
    /// one in a coding, is refused. The coding comes last, behind all else that is wrong with
    /// a head.
    pub fn of_content(fields: Fields<'_>) -> Result<Option<Box<Self>>, Refusal> {
        if fields.has("Content-Range") {
            return Err(Refusal::ContentRange);
        }
        let digests = Self::parse(fields)?;
        if fields.have_content_coding() { Err(Refusal::ContentEncoding) } else { Ok(digests) }
    }

    /// The digests in the fields of a request, if any. Unknown algorithms are
    /// ignored.
    pub fn parse(fields: Fields<'_>) -> Result<Option<Box<Self>>, Refusal> {
        let mut digests = Self::default();
        for value in fields.all("Content-MD5") {
            expect(&mut digests.md5, value.trim_matches(OWS))?;
        }
        for value in fields.all("Content-Digest").chain(fields.all("Repr-Digest")) {
            digests.add_members(value)?;
        }
        Ok((digests != Self::default()).then(|| Box::new(digests)))
    }

    /// Adds the digests of one field, a dictionary of byte sequences (RFC 9651,
    /// 3.2 and 3.3.5).
    fn add_members(&mut self, field: &str) -> Result<(), Refusal> {
        let members = field.split(',').map(|member| member.trim_matches(OWS));
        for member in members.filter(|member| !member.is_empty()) {
            let (algorithm, digest) = split_member(member).ok_or(Refusal::DigestMalformed)?;
            match algorithm {
                "sha-256" => expect(&mut self.sha256, digest)?,
                "sha-512" => expect(&mut self.sha512, digest)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Begins to hash content that comes in pieces.
    pub fn begin(self) -> Hashing {
        let (md5, sha256, sha512) = (
            self.md5.map(|_| Md5::new()),
            self.sha256.map(|_| Sha256::new()),
            self.sha512.map(|_| Sha512::new()),
        );
        Hashing { expected: self, md5, sha256, sha512 }
    }

    /// Hashes `content` and compares.
    pub fn check(self, content: &[u8]) -> Result<(), Refusal> {
        let mut hashing = self.begin();
        hashing.add(content);
        hashing.check()
    }
}

/// The content so far of which digests are expected.
pub struct Hashing {
    expected: Digests,
    md5: Option<Md5>,
    sha256: Option<Sha256>,
    sha512: Option<Sha512>,
}

impl Hashing {
    /// Goes on with the next piece.
    pub fn add(&mut self, piece: &[u8]) {
        self.md5.iter_mut().for_each(|md5| md5.update(piece));
        self.sha256.iter_mut().for_each(|sha256| sha256.update(piece));
        self.sha512.iter_mut().for_each(|sha512| sha512.update(piece));
    }

    /// Compares with the content up to here.
    pub fn check(self) -> Result<(), Refusal> {
        let found = Digests {
            md5: self.md5.map(|md5| md5.finalize().into()),
            sha256: self.sha256.map(|sha256| sha256.finalize().into()),
            sha512: self.sha512.map(|sha512| sha512.finalize().into()),
        };
        if found == self.expected { Ok(()) } else { Err(Refusal::ContentDiffers) }
    }
}

/// Adds a digest in base64 to those expected.
fn expect<const N: usize>(expected: &mut Option<[u8; N]>, digest: &str) -> Result<(), Refusal> {
    let digest = decode(digest).ok_or(Refusal::DigestMalformed)?;
    match expected.replace(digest) {
        // No content has two digests of one algorithm.
        Some(other) if other != digest => Err(Refusal::ContentDiffers),
        Some(_) | None => Ok(()),
    }
}

/// Splits `sha-256=:…:` into algorithm and digest, dropping parameters.
fn split_member(member: &str) -> Option<(&str, &str)> {
    let (algorithm, rest) = member.split_once("=:")?;
    let (digest, parameters) = rest.split_once(':')?;
    let is_of_keys =
        |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*');
    let is_key = !algorithm.is_empty() && algorithm.bytes().all(is_of_keys);
    let ends = parameters.is_empty() || parameters.starts_with(';');
    (is_key && ends).then_some((algorithm, digest))
}

/// Decodes base64 of exactly `N` bytes.
fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    // SHA-512, the longest, is rounded up to whole groups of base64.
    let mut bytes = [0; 72];
    let length = BASE64.decode_slice(text, &mut bytes).ok()?;
    bytes.get(..length)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: &[u8] = b"Nairobi";
    // printf Nairobi | openssl dgst -md5 -binary | base64, and so on.
    const MD5: &str = "/JOJgBk1q2R2uTNz9ljnBQ==";
    const SHA256: &str = "sha-256=:W/wuVROkhwN+aruEBDhbbgpaG2oF0DhYj57+8KRshfE=:";
    const SHA512: &str = "sha-512=:Bxh/Q9IdEbR/1hSYcgLFXtR4f99SeWX+r9/VTjg77++F26ieTGGvLcx41TN8T5+O71zt3XIp+KDS53H+XfbP4Q==:";
    const OTHER: &str = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";

    /// Returns true if the content is the one that the fields mean.
    fn verdict(fields: &[(&str, &str)]) -> Result<bool, Refusal> {
        let Some(digests) = Digests::parse(Fields(fields))? else { return Ok(true) };
        let matches = digests.clone().check(CONTENT).is_ok();
        let mut hashing = digests.begin();
        CONTENT.chunks(3).for_each(|piece| hashing.add(piece));
        let differs = Err(Refusal::ContentDiffers);
        assert_eq!(hashing.check(), if matches { Ok(()) } else { differs }, "{fields:?}");
        Ok(matches)
    }

    #[test]
    fn the_digests_of_the_content_match_it() {
        let both = format!("{SHA256}, {SHA512}");
        let padded = format!(" {MD5}\t");
        let unpadded = SHA256.replace("=:", ":").replace("sha-256:", "sha-256=:");
        let with_parameters = format!("{SHA256};a=1;b");
        let with_unknown = format!("md5=:AAAA:,{SHA256} ,, x*.-_9=:?:");
        let fields: [&[(&str, &str)]; 13] = [
            &[],
            &[("Content-MD5", MD5)],
            &[("content-md5", &padded)],
            &[("Content-MD5", MD5), ("Content-MD5", MD5)],
            &[("Content-Digest", SHA256)],
            &[("Content-Digest", SHA512)],
            &[("Repr-Digest", SHA256)],
            &[("Content-Digest", &both), ("Repr-Digest", &both), ("Content-MD5", MD5)],
            &[("Content-Digest", SHA256), ("Content-Digest", SHA512)],
            &[("Content-Digest", &unpadded)],
            &[("Content-Digest", &with_parameters)],
            &[("Content-Digest", &with_unknown)],
            &[("Content-Digest", ""), ("Content-Digest", "unixsum=:AAAA:")],
        ];
        for fields in fields {
            assert_eq!(verdict(fields), Ok(true), "{fields:?}");
        }
        assert_eq!(Digests::parse(Fields(&[("Content-Digest", "unixsum=:AAAA:")])), Ok(None));
        assert_ne!(Digests::parse(Fields(&[("Content-MD5", MD5)])), Ok(None));
    }

    #[test]
    fn one_digest_of_other_content_is_enough() {
        let sha512_other = SHA512.replace('z', "y");
        let fields: [&[(&str, &str)]; 6] = [
            &[("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg==")],
            &[("Content-Digest", OTHER)],
            &[("Repr-Digest", OTHER)],
            &[("Content-Digest", &sha512_other)],
            &[("Content-Digest", SHA256), ("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg==")],
            &[("Content-MD5", MD5), ("Content-Digest", &sha512_other), ("Repr-Digest", SHA256)],
        ];
        for fields in fields {
            assert_eq!(verdict(fields), Ok(false), "{fields:?}");
        }
        let fields: [&[(&str, &str)]; 3] = [
            &[("Content-Digest", SHA256), ("Content-Digest", OTHER)],
            &[("Content-Digest", SHA256), ("Repr-Digest", OTHER)],
            &[("Content-MD5", MD5), ("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg==")],
        ];
        for fields in fields {
            assert_eq!(verdict(fields), Err(Refusal::ContentDiffers), "{fields:?}");
        }
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        let of_md5 =
            ["", "*", "Nairobi", "1B2M2Y8AsgTpgAmY7PhCf", "1B2M2Y8AsgTpgAmY7PhCfgAA", "-_"];
        let as_hexadecimal = "d41d8cd98f00b204e9800998ecf8427e";
        for digest in of_md5.into_iter().chain([as_hexadecimal, &format!("{MD5}, {MD5}")]) {
            let fields = [("Content-MD5", digest)];
            assert_eq!(verdict(&fields), Err(Refusal::DigestMalformed), "{digest:?}");
        }
        let bare = SHA256.trim_start_matches("sha-256=").to_owned();
        let too_long = format!("sha-256=:{}:", "A".repeat(4000));
        let members = [
            "sha-256",
            "sha-256=",
            "sha-256=::",
            "sha-256=:AAAA:",
            "sha-256=\"AAAA\"",
            "sha-256=:AAAA",
            "sha-256 =:AAAA:",
            "=:AAAA:",
            "x=1",
            "x y=:AAAA:",
            "1B2M2Y8AsgTpgAmY7PhCfg==",
        ];
        let of_sha = [bare, too_long, SHA256.replace("sha", "SHA"), format!("{SHA256}x")];
        let members = members.into_iter().chain(of_sha.iter().map(String::as_str));
        for member in members.chain([SHA512.replace("512", "256").as_str()]) {
            for field in [member, &format!("{SHA512}, {member}")] {
                for name in ["Content-Digest", "Repr-Digest"] {
                    let refused = verdict(&[(name, field)]);
                    assert_eq!(refused, Err(Refusal::DigestMalformed), "{field:?}");
                }
            }
        }
    }
}

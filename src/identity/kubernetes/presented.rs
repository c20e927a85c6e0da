//! The token in a `Proxy-Authorization`: `Bearer TOKEN`, or the password of `Basic` (RFC 7617), which is what HTTP clients make of
//! `http://x:TOKEN@exeat:15001` in `HTTP_PROXY`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::PROXY_AUTHORIZATION;
use zeroize::Zeroizing;

use crate::identity::Caller;

/// Longest value that is looked at: a token of 16 KiB in base64, and a name.
const MOST: usize = 24 * 1024;

/// Why there is no token. Holds nothing of the field.
const NONE: &str = "the request carries no Proxy-Authorization; set HTTP_PROXY to http://x:TOKEN@HOST:PORT with a projected token";
const SEVERAL: &str = "the request carries more than one Proxy-Authorization";
const FORM: &str = "its Proxy-Authorization is neither `Bearer TOKEN` nor `Basic` with the token as password";
const TUNNEL: &str = "the CONNECT of this tunnel presented no token; it must be opened again";

/// Calls `judge` with the token that the caller presents: of the request itself, or of the CONNECT that opened the tunnel it is in.
/// What a request inside a tunnel says is not for exeat.
pub(super) fn with_token<T>(caller: &Caller<'_>, judge: impl FnOnce(&[u8]) -> T) -> Result<T, &'static str> {
    if caller.arrival.tunnel.is_some() {
        let proof = caller.arrival.proof.as_ref().ok_or(TUNNEL)?;
        return token(proof.value().expose()).map(|token| judge(&token));
    }
    let mut values = caller.headers.get_all(PROXY_AUTHORIZATION).iter();
    let value = values.next().ok_or(NONE)?;
    if values.next().is_some() {
        return Err(SEVERAL);
    }
    token(value.as_bytes()).map(|token| judge(&token))
}

/// The token in a field's value.
pub(super) fn token(value: &[u8]) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let value = value.get(..MOST).map_or(value, |_| &[]).trim_ascii();
    let at = value.iter().position(|byte| *byte == b' ').ok_or(FORM)?;
    let (scheme, rest) = value.split_at_checked(at).ok_or(FORM)?;
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Ok(Zeroizing::new(rest.to_vec()));
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return Err(FORM);
    }
    let decoded = Zeroizing::new(STANDARD.decode(rest).map_err(|_| FORM)?);
    let colon = decoded.iter().position(|byte| *byte == b':').ok_or(FORM)?;
    Ok(Zeroizing::new(decoded.get(colon + 1..).unwrap_or_default().to_vec()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bearer_and_the_password_of_basic() {
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for value in ["Bearer a.b.c".to_owned(), "bearer  a.b.c ".into(), basic("x:a.b.c"), basic(":a.b.c").replace("Basic", "BASIC")] {
            assert_eq!(*token(value.as_bytes()).unwrap(), b"a.b.c", "{value}");
        }
        assert_eq!(*token(basic("x:a:b").as_bytes()).unwrap(), b"a:b");
        for value in ["", "Bearer", "a.b.c", "Digest a", "Basic !", &basic("a.b.c"), &format!("Bearer {}", "a".repeat(MOST))] {
            assert_eq!(token(value.as_bytes()).err(), Some(FORM), "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _either = token(&value);
        }
    }
}

//! Who may see the page: the token, its cookie, the token of forms, and the names that the page answers to.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use keypacks::{Secret, kdf};
use mailbox::HolderStore;
use zeroize::Zeroizing;

use super::super::Bridge;
use super::ROOT;
use crate::names;
use crate::net::Host;

/// The secrets of one run of the bridge.
pub(in crate::bridge) struct Keys {
    /// In the address that `postern page` showed last, until somebody was there: browsers keep the addresses they were at.
    token: Mutex<Option<Zeroizing<String>>>,
    /// In the cookie.
    session: Zeroizing<String>,
    /// In every form.
    form: Zeroizing<String>,
    /// In the path of the page and of its cookie. Opens nothing by itself: browsers keep it among the addresses they were at.
    place: Zeroizing<String>,
}

const COOKIE: &str = "postern";

impl Keys {
    /// Draws new ones.
    pub(in crate::bridge) fn draw(host: &Host) -> Self {
        Keys {
            token: Mutex::default(),
            session: word(host),
            form: word(host),
            place: word(host),
        }
    }

    /// A new token, to be shown to who may open the control socket. It opens the page once, and the one before no more.
    pub(in crate::bridge) fn draw_token(&self, host: &Host) -> Zeroizing<String> {
        let token = word(host);
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        token
    }

    pub(super) fn form(&self) -> &str {
        &self.form
    }

    /// Where the page is. A cookie goes to every port of an address, below the path that it is for: another local server would
    /// have to guess this to be sent it.
    pub(super) fn root(&self) -> String {
        format!("{ROOT}/{}", self.place.as_str())
    }

    /// Whether a path is the page's or below it.
    fn is_place(&self, path: &str) -> bool {
        let rest = path.strip_prefix(ROOT).and_then(|path| path.strip_prefix('/'));
        let place = rest.and_then(|rest| rest.split('/').next());
        same(&self.place, place.unwrap_or_default())
    }

    /// Whether this is the token; from then on it is none.
    pub(super) fn spend_token(&self, shown: &str) -> bool {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        token.take_if(|token| same(token, shown)).is_some()
    }

    pub(super) fn is_form_token(&self, shown: &str) -> bool {
        same(&self.form, shown)
    }

    pub(super) fn cookie(&self) -> HeaderValue {
        let cookie = format!(
            "{COOKIE}={}; Path={}; HttpOnly; SameSite=Strict",
            self.session.as_str(),
            self.root()
        );
        HeaderValue::from_str(&cookie).expect("letters and digits")
    }

    /// Whether the cookie is there.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|cookies| cookies.to_str().ok())
            .flat_map(|cookies| cookies.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .any(|(name, value)| name == COOKIE && same(&self.session, value))
    }
}

/// 130 random bits.
fn word(host: &Host) -> Zeroizing<String> {
    Zeroizing::new(names::spell(&host.random::<26>()))
}

/// Compares in a time that does not depend on where they differ.
fn same(kept: &str, shown: &str) -> bool {
    let digest = |text: &str| Secret::new(kdf::hash(&[text.as_bytes()]));
    digest(kept) == digest(shown)
}

/// Lets nobody in whose request names another host than this machine: a page of some other site may have had its own
/// name resolve to this address, and would read the answers as its own.
pub(super) async fn check_host<S: HolderStore>(
    State(bridge): State<Arc<Bridge<S>>>,
    request: Request,
    next: Next,
) -> Response {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let port = bridge.ports.page.map_or(0, |page| page.port());
    if !named.is_some_and(|named| is_this_machine(named, port)) {
        return (StatusCode::MISDIRECTED_REQUEST, "this name does not lead here\n").into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; form-action 'self'; base-uri 'none'; \
             frame-ancestors 'none'",
        ),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The cookie, and for what changes something no origin but the page's own.
pub(super) async fn admit<S: HolderStore>(
    State(bridge): State<Arc<Bridge<S>>>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if !bridge.page_keys.admits(headers) || !bridge.page_keys.is_place(request.uri().path()) {
        return turn_away();
    }
    let is_own = match text(header::ORIGIN) {
        // Without a referrer browsers say "null" of their own forms; the form's token decides.
        None | Some("null") => true,
        Some(origin) => origin.strip_prefix("http://") == text(header::HOST),
    };
    if request.method() != axum::http::Method::GET && !is_own {
        return (StatusCode::FORBIDDEN, "this form is of another page\n").into_response();
    }
    next.run(request).await
}

/// How to get in.
pub(super) fn turn_away() -> Response {
    let locked = axum::response::Html(super::view::locked().into_string());
    (StatusCode::FORBIDDEN, locked).into_response()
}

/// `localhost`, a name below it, or a loopback address; with the page's port where one is named.
fn is_this_machine(named: &str, port: u16) -> bool {
    let (name, named_port) = match named.rsplit_once(':') {
        Some((name, digits)) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            (name, digits.parse::<u16>().ok())
        }
        _ => (named, Some(80)),
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let is_local = ["localhost", "autoconfig.localhost"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known));
    named_port == Some(port) && (is_loopback || is_local)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::system;

    #[test]
    fn a_token_opens_the_page_once_and_only_the_last_one_does() {
        let host = system::host();
        let keys = Keys::draw(&host);
        assert!(!keys.spend_token(""));
        let (first, second) = (keys.draw_token(&host), keys.draw_token(&host));
        assert!(!keys.spend_token(&first), "another was shown since");
        assert!(!keys.spend_token(&second[1..]) && keys.spend_token(&second));
        assert!(!keys.spend_token(&second) && !keys.spend_token(""), "it is spent");
        let third = keys.draw_token(&host);
        assert!(keys.spend_token(&third));
    }

    #[test]
    fn only_names_of_this_machine_with_its_port_lead_here() {
        for right in [
            "127.0.0.1:1180",
            "localhost:1180",
            "LOCALHOST:1180",
            "[::1]:1180",
            "127.0.0.2:1180",
        ] {
            assert!(is_this_machine(right, 1180), "{right}");
        }
        for wrong in [
            "",
            ":",
            "127.0.0.1",
            "localhost:80",
            "evil.test:1180",
            "127.0.0.1.evil.test:1180",
            "localhost.evil.test:1180",
            "xlocalhost:1180",
            "10.0.0.1:1180",
            "127.0.0.1:1180:1180",
            "127.0.0.1:01180x",
            "[::2]:1180",
            "0x7f.1:1180",
        ] {
            assert!(!is_this_machine(wrong, 1180), "{wrong}");
        }
        assert!(is_this_machine("localhost", 80) && is_this_machine("autoconfig.localhost", 80));
    }
}

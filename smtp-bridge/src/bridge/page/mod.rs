//! The local page: what `postern status`, `outbox` and `alias` do, in a browser on this machine. No script.
//!
//! It listens on loopback. Whoever can reach that (other users of the machine, any web page through the browser) gets
//! nothing without the token that `postern page` shows: used once, it becomes a cookie that no other site's requests carry, for a path
//! that no other server on this machine can name. The `Host` is checked, so that a foreign name that resolves to this machine leads nowhere; forms carry a second token.
//! The account assistant's file alone is open, as it says nothing about anybody.

mod guard;
mod plot;
mod view;

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Form, Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, extract::DefaultBodyLimit};
use mailbox::HolderStore;
use tokio::sync::watch;

use super::Bridge;
use super::commands::Command;
use crate::net::{Listener, pages};

pub(super) use guard::Keys;
pub(super) use view::warning_of_link;

/// Where the page is below its port, with a word that is drawn at every start behind it; the cookie goes nowhere else.
const ROOT: &str = "/page";
/// Connections at one time; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 32;
/// Longest form, in bytes.
const FORM_BYTES_MAX: usize = 16 * 1024;

/// Serves the page until `stop` turns true.
pub(super) async fn serve<S: HolderStore>(
    bridge: Arc<Bridge<S>>,
    listener: Box<dyn Listener>,
    stop: watch::Receiver<bool>,
) {
    // Below ROOT.
    let page = Router::new()
        .route("/page/{place}/", get(overview::<S>))
        .route("/page/{place}/qr/{address}", get(code::<S>))
        .route("/page/{place}/{action}", post(act::<S>))
        .route_layer(middleware::from_fn_with_state(bridge.clone(), guard::admit::<S>))
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX));
    let routes = Router::new()
        .route("/", get(entrance::<S>))
        .merge(page)
        // Mozilla's places for the file below a domain, and one for the setting that names a service.
        .route("/mail/config-v1.1.xml", get(configuration::<S>))
        .route("/.well-known/autoconfig/mail/config-v1.1.xml", get(configuration::<S>))
        .route("/autoconfig/localhost", get(configuration::<S>))
        .layer(middleware::from_fn_with_state(bridge.clone(), guard::check_host::<S>))
        .with_state(bridge);
    // It ends by `stop` alone.
    let _ = pages::serve(listener, routes, CONNECTIONS_MAX, stop).await;
}

/// With the token: a cookie, and on to the page. Without: how to get one.
async fn entrance<S: HolderStore>(
    State(bridge): State<Arc<Bridge<S>>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let shown = query.get("token").map(String::as_str).unwrap_or_default();
    if bridge.page_keys.spend_token(shown) {
        return (
            [(header::SET_COOKIE, bridge.page_keys.cookie())],
            to_page(&bridge.page_keys, ""),
        )
            .into_response();
    }
    // The cookie is not sent here, and where the page is is not told.
    guard::turn_away()
}

fn to_page(keys: &Keys, said: &str) -> Response {
    let root = keys.root();
    let place = match said {
        "" => format!("{root}/"),
        said => format!("{root}/?said={}", percent(said)),
    };
    let place = HeaderValue::from_str(&place).expect("only letters, digits and percent signs");
    (StatusCode::SEE_OTHER, [(header::LOCATION, place)]).into_response()
}

/// RFC 3986 section 2.1, of everything but letters and digits.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

async fn overview<S: HolderStore>(
    State(bridge): State<Arc<Bridge<S>>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let said = query.get("said").map(String::as_str).unwrap_or_default();
    match view::overview(&bridge, said) {
        Ok(page) => Html(page.into_string()).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n").into_response(),
    }
}

/// An alias as a picture for a telephone's camera. Only of the user's own aliases.
async fn code<S: HolderStore>(
    State(bridge): State<Arc<Bridge<S>>>,
    Path((_, address)): Path<(String, String)>,
) -> Response {
    let known = bridge.store.aliases().unwrap_or_default();
    let Some(alias) = known.iter().find(|alias| alias.address == address) else {
        return (StatusCode::NOT_FOUND, "no such alias\n").into_response();
    };
    match plot::code(&format!("mailto:{}", alias.address)) {
        Some(picture) => ([(header::CONTENT_TYPE, "image/svg+xml")], picture).into_response(),
        None => (StatusCode::NOT_FOUND, "too long for a code\n").into_response(),
    }
}

/// What a form asks for. Whatever comes of it, the page is shown anew with a sentence about it.
async fn act<S: HolderStore>(
    State(bridge): State<Arc<Bridge<S>>>,
    Path((_, action)): Path<(String, String)>,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let field = |name: &str| form.get(name).map(|value| value.trim().to_owned()).unwrap_or_default();
    if !bridge.page_keys.is_form_token(&field("form")) {
        return (StatusCode::FORBIDDEN, "this form is not of this page: load it anew\n").into_response();
    }
    let said = |filled: String| Some(filled).filter(|filled| !filled.is_empty());
    let days = field("days");
    let days = match days.as_str() {
        "" => Ok(None),
        days => match days.parse() {
            Ok(days @ 1..=36_500) => Ok(Some(days)),
            _ => Err("write a number of days from 1 to 36500, or nothing".to_owned()),
        },
    };
    let (command, done) = match (action.as_str(), days) {
        (_, Err(sentence)) => return to_page(&bridge.page_keys, &sentence),
        ("alias-new", Ok(days)) => (
            Command::AliasNew {
                local: said(field("local")),
                label: said(field("label")),
                days,
            },
            "The alias is open.",
        ),
        ("alias-change", Ok(days)) => {
            let address = field("address");
            let label = Command::AliasLabel {
                address: address.clone(),
                label: said(field("label")),
            };
            let name = Command::AliasName {
                address: address.clone(),
                display_name: said(field("name")),
            };
            for command in [label, name] {
                if let Err(sentence) = bridge.command(command).await {
                    return to_page(&bridge.page_keys, &sentence);
                }
            }
            let keep = field("keep") == "yes" && days.is_none();
            match keep {
                true => return to_page(&bridge.page_keys, "The alias is changed."),
                false => (Command::AliasExpire { address, days }, "The alias is changed."),
            }
        }
        ("alias-close", _) => (
            Command::AliasClose {
                address: field("address"),
            },
            "The alias is closed.",
        ),
        ("cancel", _) => match field("row").parse() {
            Ok(row) => (Command::Cancel { row }, "The message is cancelled."),
            Err(_) => return to_page(&bridge.page_keys, "there is no such row"),
        },
        ("refresh", _) => (Command::Refresh, "The relay is asked for news."),
        _ => return (StatusCode::NOT_FOUND, "no such form\n").into_response(),
    };
    match bridge.command(command).await {
        Ok(_) => to_page(&bridge.page_keys, done),
        Err(sentence) => to_page(&bridge.page_keys, &sentence),
    }
}

async fn configuration<S: HolderStore>(State(bridge): State<Arc<Bridge<S>>>) -> Response {
    let text = super::autoconfig(bridge.ports.smtp, bridge.ports.imap);
    ([(header::CONTENT_TYPE, "text/xml; charset=utf-8")], text).into_response()
}

//! Status page and metrics: sums over the whole relay, loopback only by default.

use std::fmt::Write;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use ledger::Onward;
use mailbox::RelayStore;
use smtp_bridge::figures::grouped;
use smtp_bridge::net::{Listener, pages};
use tokio::sync::watch;

use crate::Relay;

/// Serves the pages until `stop` turns true.
pub(crate) async fn serve<S: RelayStore>(
    relay: Arc<Relay<S>>,
    listener: Box<dyn Listener>,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let routes = Router::new()
        .route("/", get(status::<S>))
        .route("/metrics", get(metrics::<S>))
        .route("/health", get(|| async { "ok\n" }))
        .with_state(relay);
    pages::serve(listener, routes, CONNECTIONS_MAX, stop).await
}

/// Connections at one time; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 64;

/// Name, help and value of every figure that is a state rather than a count since start.
fn gauges<S: RelayStore>(relay: &Relay<S>) -> Result<Vec<(&'static str, &'static str, u64)>, mailbox::StoreError> {
    let totals = relay.store.totals()?;
    Ok(vec![
        ("links_open", "Links open now", relay.links.count() as u64),
        ("queued", "Deliveries waiting in the spool", totals.queued),
        ("deposits", "Messages waiting to be collected", totals.deposits),
        ("packs", "Packs issued", totals.accounts),
        ("aliases", "Aliases open", totals.aliases),
        (
            "credits_utok",
            "Sum of all credits of holders, in micro-tokens",
            totals.credits,
        ),
        (
            "debits_utok",
            "Sum of all debits of holders, in micro-tokens",
            totals.debits,
        ),
        (
            "balances_utok",
            "Sum of all balances of holders, in micro-tokens",
            totals.balances,
        ),
        ("revenue_utok", "Revenue, in micro-tokens", totals.revenue),
        (
            "onward_utok",
            "Paid by holders for further relays, in micro-tokens",
            totals.onward,
        ),
        (
            "owed_utok",
            "Drawn on credit and not settled, in micro-tokens",
            totals.owed,
        ),
        (
            "peers_without_credit",
            "Peers at which the credit is used up",
            relay.peers.without_credit(),
        ),
        (
            "peers_differing",
            "Peers whose books differ from what they answered",
            relay.peers.differing(),
        ),
        (
            "peers_too_dear",
            "Peers that are given nothing, since their prices rose too far",
            relay.peers.too_dear(),
        ),
        (
            "packs_frozen",
            "Packs frozen, since a copy of them was in use",
            relay.store.frozen_packs(),
        ),
    ])
}

async fn metrics<S: RelayStore>(State(relay): State<Arc<Relay<S>>>) -> Response {
    let Ok(gauges) = gauges(&relay) else {
        return unavailable();
    };
    let mut text = String::new();
    let counters = relay.metrics.rows().map(|row| ("counter", "_total", row));
    let gauges = gauges.into_iter().map(|row| ("gauge", "", row));
    for (kind, suffix, (name, help, value)) in counters.into_iter().chain(gauges) {
        let _ = writeln!(
            text,
            "# HELP postern_{name}{suffix} {help}\n# TYPE postern_{name}{suffix} {kind}\npostern_{name}{suffix} {value}"
        );
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn status<S: RelayStore>(State(relay): State<Arc<Relay<S>>>) -> Response {
    let Ok(gauges) = gauges(&relay) else {
        return unavailable();
    };
    let prices = relay.store.prices();
    let mut rows = String::new();
    for (_, help, value) in gauges.into_iter().chain(relay.metrics.rows()) {
        let _ = write!(rows, "<tr><td>{help}</td><td>{}</td></tr>", grouped(value));
    }
    let page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Postern relay</title>\
         <meta name=viewport content='width=device-width'><meta http-equiv=refresh content=10><style>{STYLE}</style>\
         <h1>Postern relay for {}</h1><p>Sums over the whole relay: nothing here is about anybody.</p>\
         <h2>Prices, list {}</h2><table><tr><td>Message, each recipient</td><td>{} µtok</td></tr>\
         <tr><td>Each 1,000 bytes of size class, each recipient</td><td>{} µtok</td></tr>\
         <tr><td>Link key</td><td>{} µtok</td></tr>{onward}</table><h2>State</h2><table>{rows}</table>",
        relay.config.domain,
        prices.version,
        grouped(prices.message),
        grouped(prices.kilobyte),
        grouped(prices.key),
        onward = onward_rows(&relay.store.onward()),
    );
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    (
        [
            (header::CONTENT_SECURITY_POLICY, policy),
            (header::REFERRER_POLICY, "no-referrer"),
        ],
        Html(page),
    )
        .into_response()
}

/// What is added where mail goes on to other relays. Names of domains are letters, digits, dots and hyphens.
fn onward_rows(onward: &Onward) -> String {
    let all = onward.domains.iter().map(|(domain, leg)| (domain.as_str(), leg));
    let elsewhere = [("elsewhere", &onward.elsewhere)]
        .into_iter()
        .filter(|(_, leg)| leg.relays > 0);
    let mut rows = String::new();
    for (to, leg) in all.chain(elsewhere) {
        let _ = write!(
            rows,
            "<tr><td>And to {to}, over {} more relays: each recipient, each 1,000 bytes</td><td>{} + {} µtok</td></tr>",
            leg.relays,
            grouped(leg.message),
            grouped(leg.kilobyte),
        );
    }
    rows
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fafaf7}\
    h1{font-size:1.4rem}h2{font-size:1.05rem;margin-top:1.6rem}table{border-collapse:collapse;width:100%}\
    td{padding:.25rem .5rem;border-bottom:1px solid #ddd}td+td{text-align:right;font-variant-numeric:tabular-nums}\
    @media(prefers-color-scheme:dark){body{color:#ddd;background:#1b1b1a}td{border-color:#444}}";

fn unavailable() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the store is not available\n").into_response()
}

//! What the page shows.

use std::sync::PoisonError;

use mailbox::holder_store::{HolderAlias, OutboxRow};
use mailbox::request::Operation;
use mailbox::{HolderStore, StoreError};
use maud::{DOCTYPE, Markup, html};

use super::super::Bridge;
use super::super::commands::{link_state, row_words};
use super::plot::bars;
use crate::figures::{ago, ahead, date, grouped};
use crate::holder::LinkState;

/// Days that the plot shows.
const PLOT_DAYS: u32 = 60;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem;\
    color:#222;background:#fafaf7}h1{font-size:1.4rem}h2{font-size:1.05rem;margin-top:2rem}\
    table{border-collapse:collapse;width:100%}td,th{padding:.3rem .5rem;border-bottom:1px solid #ddd;text-align:left;\
    vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}\
    .said{background:#e8f0e4;padding:.5rem .8rem;border-radius:.3rem}.warn{background:#fbeed5;padding:.5rem .8rem;\
    border-radius:.3rem;margin:.4rem 0}form{display:inline}form.line{display:flex;flex-wrap:wrap;gap:.5rem;margin:.5rem 0}\
    input,button{font:inherit;padding:.15rem .4rem}input.days{width:5rem}svg{width:100%;height:8rem}rect{fill:#4a7a5c}\
    line{stroke:#888}figure{margin:0}figcaption,.soft{color:#666}details{margin:.2rem 0}img{background:#fff;padding:.3rem}\
    code{overflow-wrap:anywhere}\
    @media(prefers-color-scheme:dark){body{color:#ddd;background:#1b1b1a}td,th{border-color:#444}.said{background:#2c3a2e}\
    .warn{background:#4a3b1c}rect{fill:#7fb894}figcaption,.soft{color:#999}}";

fn frame(body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { "Postern" }
                style { (STYLE) }
            }
            body { (body) }
        }
    }
}

/// For whoever has no token.
pub(super) fn locked() -> Markup {
    frame(&html! {
        h1 { "Postern" }
        p { "This page opens with the address that " code { "postern page" } " shows." }
    })
}

/// Everything at a glance, with the forms that change it.
pub(super) fn overview<S: HolderStore>(bridge: &Bridge<S>, said: &str) -> Result<Markup, StoreError> {
    let value = bridge.store.value();
    let reserved = bridge.store.reserved()?;
    let now = bridge.host.clock.unix_seconds();
    let all_keys = bridge.store.link_position().keys;
    let aliases = bridge.store.aliases()?;
    let mut rows = bridge.store.outbox()?;
    rows.retain(|row| !bridge.is_loop(row));
    let today = bridge.host.day();
    let spent = {
        let diary = bridge.diary.lock().unwrap_or_else(PoisonError::into_inner);
        diary.spent(today, PLOT_DAYS)
    };
    let body = html! {
        h1 { "Postern" }
        @if !said.is_empty() { p.said role="status" { (said) } }
        @for warning in bridge.warnings() { p.warn role="alert" { (warning) } }
        @if let Some(words) = bridge.way_to_nested() { p { (words) } }
        section id="state" {
            h2 { "State" }
            table {
                tr { th { "Link" } td {
                    (link_state(bridge.holder.state())) " "
                    (form(bridge, "refresh", &html! { button { "Ask for news" } }))
                } }
                tr { th { "Balance" } td {
                    (grouped(value.balance)) " µtok"
                    @if reserved > 0 { span.soft { ", " (grouped(reserved)) " µtok of it for the outbox" } }
                } }
                tr { th { "Paid in, spent" } td { (grouped(value.credits)) " µtok, " (grouped(value.debits)) " µtok" } }
                tr { th { "Keys left" } td {
                    (grouped(value.keys)) " of " (grouped(all_keys)) " " meter min="0" max=(all_keys) value=(value.keys) {}
                } }
                @if let Some(prices) = bridge.store.prices() {
                    tr { th { "Prices" } td {
                        (grouped(prices.message)) " µtok a recipient, " (grouped(prices.kilobyte))
                        " µtok each kilobyte and recipient, " (grouped(prices.key)) " µtok a link"
                        @if !bridge.store.onward().is_free() { span.soft { "; more where the relay passes mail on, see " code { "postern status" } } }
                    } }
                }
                @if let Some(day) = bridge.ends_on() {
                    tr { th { @if bridge.has_ended() { "Ended" } @else { "Ends" } } td { "on " (date(day)) } }
                }
                tr { th { "Mixing" } td {
                    (bridge.default_mix().name())
                    @if let Some(reason) = bridge.mix_reason() { ", " (reason) }
                    span.soft { ", unless a message says otherwise; what the relay offers: " code { "postern mix" } }
                } }
                @if let Some(words) = bridge.loop_words() {
                    tr { th { "Loops" } td { (words) } }
                }
                @if let Some(words) = bridge.cover_words() {
                    tr { th { "Cover" } td { (words) } }
                }
                tr { th { "Pack" } td { code { (bridge.store.facts().identifier.to_text()) } } }
            }
        }
        section id="use" { h2 { "Use" } (bars(&spent)) }
        section id="aliases" { h2 { "Aliases" } (alias_table(bridge, &aliases, now)) (new_alias(bridge)) }
        section id="outbox" { h2 { "Outbox" } (outbox(bridge, &rows, now)) }
        p.soft { "Mail program: " code { "postern setup thunderbird" } ", " code { "mutt" } ", " code { "git" }
            " and others; or " code { "postern settings" } "." }
    };
    Ok(frame(&body))
}

/// A form of one action, with the token that proves that this page made it.
fn form<S: HolderStore>(bridge: &Bridge<S>, action: &str, fields: &Markup) -> Markup {
    html! {
        form.line[action.starts_with("alias-new") || action == "alias-change"] method="post" action=(action) {
            input type="hidden" name="form" value=(bridge.page_keys.form());
            (fields)
        }
    }
}

fn alias_table<S: HolderStore>(bridge: &Bridge<S>, aliases: &[HolderAlias], now: u64) -> Markup {
    html! {
        @if aliases.is_empty() { p { "None yet: the first one comes with the first link." } }
        table {
            @for alias in aliases {
                tr {
                    td {
                        code { (alias.address) }
                        @if let Some(label) = &alias.label { br; (label) }
                        @if let Some(name) = &alias.display_name { br; span.soft { "goes out as " (name) } }
                        @if alias.open && let Some(expires) = alias.expires {
                            br; span.soft { "closes " (ahead(expires, now)) ", on " (date(u32::try_from(expires / 86_400).unwrap_or(u32::MAX))) }
                        }
                    }
                    @if alias.open {
                        td { (alias_forms(bridge, alias)) }
                    } @else {
                        td.soft { "closed" }
                    }
                }
            }
        }
    }
}

fn alias_forms<S: HolderStore>(bridge: &Bridge<S>, alias: &HolderAlias) -> Markup {
    let address = html! { input type="hidden" name="address" value=(alias.address); };
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    html! {
        details {
            summary { "Change" }
            (form(bridge, "alias-change", &html! {
                (address)
                label { "Label " input name="label" maxlength="100" value=(text(&alias.label)); }
                label { "Name that recipients see " input name="name" maxlength="100" value=(text(&alias.display_name)); }
                label { "Close after " input.days name="days" inputmode="numeric" placeholder="days"; " days" }
                label { input type="checkbox" name="keep" value="yes" checked; " leave its end as it is" }
                button { "Save" }
            }))
        }
        details {
            summary { "Code" }
            img alt=(format!("Code of {}", alias.address)) width="200" height="200" loading="lazy"
                src=(format!("qr/{}", alias.address));
        }
        details {
            summary { "Close" }
            (form(bridge, "alias-close", &html! {
                (address)
                "Mail for it is refused from then on. " button { "Close it" }
            }))
        }
    }
}

fn new_alias<S: HolderStore>(bridge: &Bridge<S>) -> Markup {
    form(
        bridge,
        "alias-new",
        &html! {
            label { "New: " input name="local" maxlength="64" placeholder="at random"; "@" (bridge.store.facts().relay_domain) }
            label { "Label " input name="label" maxlength="100"; }
            label { "Close after " input.days name="days" inputmode="numeric" placeholder="never"; " days" }
            button { "Open" }
        },
    )
}

fn outbox<S: HolderStore>(bridge: &Bridge<S>, rows: &[OutboxRow], now: u64) -> Markup {
    html! {
        @let parcels = bridge.store.parcels();
        @if rows.is_empty() && parcels.is_empty() { p { "Empty: everything has reached the relay." } }
        @if !parcels.is_empty() {
            table {
                tr { th { "Parcel" } th { "Size" } th { "Price" } th { "State" } }
                @for parcel in &parcels {
                    tr {
                        td { (parcel.index) " " (parcel.label) br; span.soft { (ago(parcel.sealed, now)) } }
                        td.n { @if parcel.class > 0 { (grouped(u64::from(parcel.class) * 16)) " kB" } }
                        td.n { (grouped(parcel.price)) " µtok" }
                        td { "no receipt yet" }
                    }
                }
            }
        }
        @if !rows.is_empty() {
            table {
                tr { th { "Message" } th { "Size" } th { "Price" } th { "State" } th {} }
                @for row in rows {
                    @let words = row_words(row);
                    tr {
                        td { (row.label) br; span.soft { (ago(row.taken, now)) } }
                        td.n { @if let Operation::Submit { kilobytes, .. } = row.change.operation { (grouped(kilobytes.into())) " kB" } }
                        td.n { (grouped(row.price)) " µtok" }
                        td { (words.state) @if !words.reason.is_empty() { br; span.soft { (words.reason) } } }
                        td { (form(bridge, "cancel", &html! {
                            input type="hidden" name="row" value=(row.row);
                            button { "Cancel" }
                        })) }
                    }
                }
            }
        }
    }
}

/// What is the matter with the link, if anything is.
pub(in crate::bridge) fn warning_of_link(state: LinkState) -> Option<&'static str> {
    match state {
        LinkState::KeysUsedUp => {
            Some("The link keys are used up: nothing can be sent or fetched with this pack. Get a new one.")
        }
        LinkState::PadUsedUp => {
            Some("The pad is used up: nothing can be sent or fetched with this pack. Get a new one.")
        }
        LinkState::RolledBack => {
            Some("The relay was restored from an old copy and is not trusted any more: ask its operator.")
        }
        LinkState::Replaced => Some(
            "Somebody else had the relay give this pack other keys: it opens nothing any more. See the message in INBOX.",
        ),
        LinkState::Waiting | LinkState::Connecting | LinkState::Linked => None,
    }
}

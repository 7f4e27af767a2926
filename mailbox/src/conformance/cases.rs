//! The fixed cases. Each starts with an empty store.

use super::Backend;
use crate::relay_store::RelayStore;

mod mail;
mod value;

/// Runs every case, each on a backend of its own, and an audit after each.
pub async fn every_case<B: Backend>(fresh: impl Fn() -> B) {
    macro_rules! cases {
        ($($part:ident::$case:ident),* $(,)?) => {
            $({
                let backend = fresh();
                let store = backend.open().await;
                $part::$case(&store).await;
                audited(&store, stringify!($case));
                backend.close(store).await;
                let store = backend.open().await;
                audited(&store, stringify!($case));
                backend.close(store).await;
            })*
        };
    }
    cases!(
        value::value_counts_once_per_transfer,
        value::a_statement_sums_up_by_day_and_kind,
        value::a_tag_is_live_until_it_is_burned,
        value::a_rotation_burns_and_debits_and_leaves_the_token,
        value::tokens_tell_a_second_holder,
        value::a_change_is_carried_out_once,
        value::a_number_is_refused_when_stale_or_taken,
        value::too_little_value_is_told_and_costs_nothing,
        value::unacknowledged_answers_are_bounded,
        mail::aliases_belong_to_one_account,
        mail::reserved_addresses_lead_to_the_operator,
        mail::a_deposit_is_served_until_it_is_confirmed,
        mail::inbound_prices_are_debited_once,
        mail::collection_steps_over_what_is_gone,
        mail::a_delivery_is_due_until_it_is_finished,
        mail::a_failed_delivery_is_told_in_the_same_commit,
        mail::a_delay_is_told_in_the_same_commit_and_remembered,
        mail::an_epoch_passes_without_losing_the_spool,
        mail::what_is_old_expires,
        value::prices_have_versions,
        mail::contradictory_orders_are_refused,
    );
}

fn audited(store: &impl RelayStore, case: &str) {
    let audit = store.audit().expect("readable");
    assert_eq!(audit.findings, Vec::<String>::new(), "{case}");
    assert_eq!(audit.totals, store.totals().expect("readable"), "{case}");
}

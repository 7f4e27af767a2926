//! The fixed cases. Each starts with an empty store.

use super::Backend;
use crate::relay_store::RelayStore;

mod devices;
mod expiry;
mod mail;
mod moves;
mod procure;
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
        value::cover_is_debited_whole_or_not_at_all,
        value::tokens_tell_a_second_holder,
        value::a_change_is_carried_out_once,
        value::a_number_is_refused_when_stale_or_taken,
        value::too_little_value_is_told_and_costs_nothing,
        value::unacknowledged_answers_are_bounded,
        mail::aliases_belong_to_one_account,
        mail::a_domain_is_spoken_for_by_one_account,
        mail::reserved_addresses_lead_to_the_operator,
        mail::a_deposit_is_served_until_it_is_confirmed,
        mail::inbound_prices_are_debited_once,
        mail::collection_steps_over_what_is_gone,
        mail::a_delivery_is_due_until_it_is_finished,
        mail::a_delivery_in_the_pool_is_due_when_it_is_released,
        mail::a_receipt_is_told_in_the_same_commit,
        mail::a_failed_delivery_is_told_in_the_same_commit,
        mail::a_delay_is_told_in_the_same_commit_and_remembered,
        mail::an_epoch_passes_without_losing_the_spool,
        mail::what_is_old_expires,
        value::prices_have_versions,
        value::both_legs_are_debited_in_one_commit_and_stand_apart,
        moves::a_split_moves_keys_and_value_once,
        moves::a_split_leaves_enough_on_both_sides,
        moves::packs_made_in_a_day_are_bounded,
        moves::a_voucher_is_redeemed_once,
        moves::an_account_in_use_is_not_released,
        moves::a_voucher_that_nobody_takes_falls_back,
        expiry::an_account_that_ended_collects_and_nothing_else,
        expiry::an_account_ends_on_its_day_unless_that_is_taken_back,
        expiry::what_falls_back_to_an_account_that_ended_lapses,
        expiry::the_operators_account_does_not_end,
        devices::two_devices_share_value_aliases_and_mail,
        devices::a_device_is_made_once_and_never_from_the_last_keys,
        devices::a_dropped_device_is_served_nothing_and_its_keys_come_back,
        devices::keys_and_value_end_with_the_last_device,
        devices::inbound_mail_is_paid_for_once,
        devices::an_account_of_several_devices_is_not_released,
        devices::what_devices_are_told_is_bounded,
        moves::what_is_drawn_on_credit_is_owed_until_it_is_settled,
        procure::a_pack_is_ordered_once_and_told_once,
        procure::a_pack_that_was_made_is_told_to_whichever_device_asks,
        procure::an_account_that_waits_for_packs_is_not_given_away,
        procure::a_pack_that_is_not_made_is_paid_back,
        procure::orders_are_bounded_and_covered,
        procure::an_account_is_made_once_for_an_order,
        procure::accounts_are_made_of_what_is_there_and_more_of_them_by_relays,
        mail::contradictory_orders_are_refused,
    );
}

fn audited(store: &impl RelayStore, case: &str) {
    let audit = store.audit().expect("readable");
    assert_eq!(audit.findings, Vec::<String>::new(), "{case}");
    assert_eq!(audit.totals, store.totals().expect("readable"), "{case}");
}

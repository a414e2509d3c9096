//! One battery of API tests, for kube-lite and for a real kube-apiserver: where the answers differ, kube-lite is wrong.
//!
//! The real server and its etcd are started by the test process and end with it; no root is needed.
#![allow(
    clippy::unwrap_used,
    clippy::missing_docs_in_private_items,
    reason = "a failed unwrap is a failed test"
)]

mod client;
mod custom;
mod fields;
mod kubectl;
mod lite;
mod lite_only;
mod objects;
mod real;
mod services;
mod strange;
mod watching;

use client::Api;

/// Makes two tests of each case: one per server.
macro_rules! battery {
    ($($module:ident :: $case:ident),+ $(,)?) => {
        mod on_kube_lite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let dir = tempfile::tempdir().unwrap();
                let server = super::lite::Lite::start(dir.path()).await.unwrap();
                let api = super::Api::new(server.kubeconfig(), stringify!($case)).await;
                super::$module::$case(&api).await;
            })+
        }
        mod on_kubernetes {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let api = super::Api::new(&super::real::kubeconfig(), stringify!($case)).await;
                super::$module::$case(&api).await;
            })+
        }
    };
}

battery! {
    objects::discovery_names_every_resource_in_both_forms,
    objects::what_is_not_there_is_a_status,
    objects::a_new_object_gets_what_the_server_gives,
    objects::names_and_labels_must_be_well_formed,
    objects::a_list_selects_by_labels_and_fields,
    objects::pages_show_one_moment,
    objects::an_update_of_an_older_version_conflicts,
    objects::what_changes_nothing_keeps_its_version,
    objects::patches_change_what_they_name,
    objects::finalizers_hold_an_object_until_they_are_gone,
    objects::deletion_keeps_to_its_preconditions,
    objects::the_status_is_written_apart,
    objects::unknown_fields_are_dropped_warned_of_or_refused,
    objects::a_dry_run_leaves_nothing,
    objects::a_collection_is_deleted_by_selector,
    objects::a_terminating_namespace_takes_nothing_new,
    objects::rules_of_built_in_kinds_hold,
    objects::nobody_lists_without_credentials,
    services::a_service_gets_an_address,
    services::an_address_is_given_once,
    services::headless_and_external_services_have_none,
    services::node_ports_are_allocated,
    services::rules_for_services_hold,
    fields::applying_owns_merges_and_removes,
    fields::an_applier_does_not_take_what_others_own_unless_forced,
    fields::managed_fields_are_those_of_the_original,
    fields::an_update_takes_over_what_it_changes,
    fields::who_does_not_know_of_managed_fields_leaves_them,
    fields::lists_merge_by_their_keys,
    fields::applying_needs_a_manager_and_a_kind,
    watching::a_watch_tells_what_happens_after_a_version,
    watching::a_selector_turns_changes_into_additions_and_deletions,
    watching::a_watch_without_a_version_begins_with_what_is_there,
    watching::a_streamed_list_ends_with_a_bookmark,
    watching::a_watch_ends_after_its_time,
    watching::tables_are_watched_row_by_row,
    custom::a_definition_is_served_once_it_is_established,
    custom::objects_are_pruned_defaulted_and_validated,
    custom::definitions_must_be_sound,
    custom::columns_come_from_the_definition,
    custom::the_subresource_status_needs_to_be_declared,
    custom::versions_are_converted_by_name,
    custom::a_forgotten_version_is_gone,
    kubectl::the_verbs_work,
    strange::a_write_that_lacks_only_what_the_server_gives_is_none,
    strange::options_that_do_not_go_together_are_refused,
    strange::a_name_in_a_path_is_taken_as_it_is,
    strange::an_object_keeps_its_name_and_its_namespace,
    strange::a_json_patch_has_bounds,
    strange::a_token_leads_nowhere_else,
    strange::appliers_at_the_same_time_lose_nothing,
}

//! Label selectors, as Kubernetes has them. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Which labels are meant: all of `matchLabels` and all of `matchExpressions`; without any, all that there are.
/// Source: Kubernetes `meta/v1`, LabelSelector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Selector {
    match_labels: BTreeMap<String, String>,
    match_expressions: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Requirement {
    key: String,
    operator: Operator,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Whether labels that `value` looks up are meant.
    pub(crate) fn matches<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.match_labels.iter().all(|(key, wanted)| value(key) == Some(wanted))
            && self.match_expressions.iter().all(|requirement| requirement.holds(value(&requirement.key)))
    }

    /// What is wrong with it: where, and what was expected.
    pub(crate) fn fault(&self) -> Option<(String, &'static str)> {
        let wrong = |requirement: &Requirement| match (requirement.operator, requirement.values.is_empty()) {
            _ if requirement.key.is_empty() => Some("expected a label's key"),
            (Operator::In | Operator::NotIn, true) => Some("In and NotIn need values"),
            (Operator::Exists | Operator::DoesNotExist, false) => {
                Some("Exists and DoesNotExist take no values")
            }
            (Operator::In | Operator::NotIn, false) | (Operator::Exists | Operator::DoesNotExist, true) => {
                None
            }
        };
        let mut faults = self.match_expressions.iter().enumerate();
        faults.find_map(|(at, requirement)| Some((format!("matchExpressions[{at}]"), wrong(requirement)?)))
    }
}

impl Requirement {
    /// An absent label is in no set, so `NotIn` holds for it.
    fn holds(&self, value: Option<&str>) -> bool {
        let named = || value.is_some_and(|value| self.values.iter().any(|wanted| wanted == value));
        match self.operator {
            Operator::In => named(),
            Operator::NotIn => !named(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_means_what_it_means_in_kubernetes() {
        let labels: BTreeMap<&str, &str> = [("app", "cart"), ("tier", "")].into();
        for (text, expected) in [
            ("{}", true),
            ("matchLabels: {app: cart}", true),
            ("matchLabels: {app: cart, tier: x}", false),
            ("matchLabels: {tier: ''}", true),
            ("matchExpressions: [{key: app, operator: In, values: [pay, cart]}]", true),
            ("matchExpressions: [{key: app, operator: NotIn, values: [pay, cart]}]", false),
            ("matchExpressions: [{key: zone, operator: NotIn, values: [a]}]", true),
            ("matchExpressions: [{key: zone, operator: In, values: [a]}]", false),
            ("matchExpressions: [{key: tier, operator: Exists}]", true),
            ("matchExpressions: [{key: tier, operator: DoesNotExist}]", false),
            ("matchExpressions: [{key: zone, operator: DoesNotExist}]\nmatchLabels: {app: pay}", false),
        ] {
            let selector: Selector = serde_yaml_ng::from_str(text).unwrap();
            assert_eq!(selector.fault(), None, "{text}");
            assert_eq!(selector.matches(|key| labels.get(key).copied()), expected, "{text}");
        }
    }

    #[test]
    fn an_expression_that_cannot_mean_anything_is_a_fault() {
        for text in [
            "matchExpressions: [{key: app, operator: In}]",
            "matchExpressions: [{key: app, operator: Exists, values: [x]}]",
            "matchExpressions: [{key: '', operator: Exists}]",
        ] {
            let selector: Selector = serde_yaml_ng::from_str(text).unwrap();
            assert_eq!(selector.fault().unwrap().0, "matchExpressions[0]", "{text}");
        }
    }
}

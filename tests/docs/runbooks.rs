//! Each example alert leads to the section of docs/operation.md that says what to do.

use serde_yaml::Value;
use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::path::Path;

const PAGE: &str = "https://github.com/ReCodEx/monitor/blob/master/docs/operation.md#";

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The anchor of each heading, as GitHub makes it.
fn anchors(markdown: &str) -> Vec<String> {
    let headings = markdown.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// The anchor to which each alert leads, by the end of its name.
fn runbooks() -> BTreeMap<String, String> {
    let alerts = read("packaging/usr/share/doc/recodex-monitor/examples/prometheus-alerts.yml");
    let alerts: Value = serde_yaml::from_str(&alerts).expect("YAML");
    let rules = alerts["groups"].as_sequence().expect("groups").iter().flat_map(|group| {
        let rules = group["rules"].as_sequence().expect("rules");
        rules.iter().filter(|rule| rule.get("alert").is_some())
    });
    let runbook = |rule: &Value| {
        let name = rule["alert"].as_str().expect("a name");
        let url = rule["annotations"]["runbook_url"].as_str().unwrap_or_else(|| panic!("{name} has no runbook_url"));
        let anchor = url.strip_prefix(PAGE).unwrap_or_else(|| panic!("{name}: {url}"));
        (name.strip_prefix("RecodexMonitor").expect("the common beginning").to_owned(), anchor.to_owned())
    };
    rules.map(runbook).collect()
}

#[test]
fn each_alert_leads_to_a_section_that_exists() {
    let (anchors, runbooks) = (anchors(&read("docs/operation.md")), runbooks());
    assert!(runbooks.len() > 20, "{runbooks:?}");
    for (alert, anchor) in runbooks {
        assert!(anchors.contains(&anchor), "{alert}: docs/operation.md has no section {anchor}");
    }
}

#[test]
fn the_table_of_the_alerts_has_each_and_leads_where_the_alert_does() {
    let text = read("docs/operation.md");
    let rows = text.lines().skip_while(|line| !line.starts_with("| alert (each begins with"));
    let mut listed = BTreeMap::new();
    for row in rows.skip(2).take_while(|line| line.starts_with('|')) {
        let (alerts, link) = row.split_once(" | ").unwrap_or_else(|| panic!("{row}"));
        let anchor = link.split_once("](#").and_then(|(_, rest)| rest.split_once(')'));
        let (anchor, _) = anchor.unwrap_or_else(|| panic!("no link: {row}"));
        for alert in alerts.split('`').skip(1).step_by(2) {
            assert!(listed.insert(alert.to_owned(), anchor.to_owned()).is_none(), "twice: {alert}");
        }
    }
    assert_eq!(listed, runbooks());
}

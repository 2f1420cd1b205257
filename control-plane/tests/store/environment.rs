//! Sessions' variables and secrets in each database.

use crate::on_each_database;
use control_plane::environment::{Change, Environments, Error, Fault, Seal};
use control_plane::telemetry::Secret;
use std::collections::BTreeMap;
use std::sync::Arc;

fn key(digit: char) -> Arc<Seal> {
    Arc::new(Seal::parse(&digit.to_string().repeat(64)).unwrap())
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn change(variables: Option<&[(&str, &str)]>, secrets: &[(&str, Option<&str>)]) -> Change {
    let secrets = secrets.iter().map(|(name, value)| ((*name).to_owned(), value.map(Secret::new))).collect();
    Change { variables: variables.map(map), secrets }
}

on_each_database!(variables_are_replaced_whole_and_secrets_one_by_one, |it| {
    let environments = Environments::new(it.store.database().clone(), Some(key('a')));
    let put = async |variables: Option<&[(&str, &str)]>, secrets: &[(&str, Option<&str>)]| {
        let shown = environments.put(it.session, change(variables, secrets)).await.unwrap();
        assert_eq!(environments.get(it.session).await.unwrap(), shown);
        (shown.variables, shown.secrets)
    };
    let (variables, secrets) =
        put(Some(&[("A", "1"), ("B", "2")]), &[("TOKEN", Some("t-1")), ("OTHER", Some("o"))]).await;
    assert_eq!((variables, secrets), (map(&[("A", "1"), ("B", "2")]), vec!["OTHER".into(), "TOKEN".into()]));
    let (variables, secrets) = put(Some(&[("C", "3")]), &[("OTHER", None), ("NEVER", None)]).await;
    assert_eq!((variables, secrets), (map(&[("C", "3")]), vec!["TOKEN".into()]));
    let (variables, secrets) = put(None, &[("TOKEN", Some("t-2"))]).await;
    assert_eq!((variables, secrets), (map(&[("C", "3")]), vec!["TOKEN".to_owned()]));
    let resolved = environments.resolve(it.session).await.unwrap();
    assert_eq!(resolved.unopened, []);
    let session = it.session.to_string();
    assert_eq!(resolved.variables, map(&[("BERTH_SESSION", session.as_str()), ("C", "3"), ("TOKEN", "t-2")]));
    // A secret may become a variable in one step, and else stands in its way.
    let refused = environments.put(it.session, change(Some(&[("TOKEN", "x")]), &[])).await;
    assert!(matches!(refused, Err(Error::Both(name)) if name == "TOKEN"));
    let refused = environments.put(it.session, change(None, &[("C", Some("x"))])).await;
    assert!(matches!(refused, Err(Error::Both(name)) if name == "C"));
    assert_eq!(environments.resolve(it.session).await.unwrap().variables, resolved.variables);
    let (variables, secrets) = put(Some(&[("TOKEN", "x")]), &[("TOKEN", None)]).await;
    assert_eq!((variables, secrets), (map(&[("TOKEN", "x")]), vec![]));
});

on_each_database!(bounds_count_what_is_there_already, |it| {
    let environments = Environments::new(it.store.database().clone(), Some(key('a')));
    let large = "x".repeat(30_000);
    environments.put(it.session, change(Some(&[("A", &large)]), &[("S", Some(&large))])).await.unwrap();
    let refused = environments.put(it.session, change(None, &[("T", Some(&large))])).await;
    assert!(matches!(refused, Err(Error::Fault(Fault::Total(_)))), "{refused:?}");
    let refused = environments.put(it.session, change(None, &[("BERTH_X", Some("x"))])).await;
    assert!(matches!(refused, Err(Error::Fault(Fault::Reserved(_)))), "{refused:?}");
    assert_eq!(environments.get(it.session).await.unwrap().secrets, ["S"]);
});

on_each_database!(a_secret_of_another_key_is_left_out_and_told, |it| {
    let database = it.store.database();
    let before = Environments::new(database.clone(), Some(key('a')));
    before.put(it.session, change(Some(&[("A", "1")]), &[("TOKEN", Some("t"))])).await.unwrap();
    for seal in [Some(key('b')), None] {
        let after = Environments::new(database.clone(), seal);
        let resolved = after.resolve(it.session).await.unwrap();
        assert_eq!(resolved.variables.get("A").map(String::as_str), Some("1"));
        assert!(!resolved.variables.contains_key("TOKEN"));
        assert_eq!(resolved.unopened[0].0, "TOKEN");
    }
    let keyless = Environments::new(database.clone(), None);
    let refused = keyless.put(it.session, change(None, &[("NEW", Some("t"))])).await;
    assert!(matches!(refused, Err(Error::NoKey)));
    keyless.put(it.session, change(Some(&[("B", "2")]), &[])).await.unwrap();
    let resolved = before.resolve(it.session).await.unwrap();
    assert_eq!(resolved.variables.get("TOKEN").map(String::as_str), Some("t"), "the old key opens it again");
});

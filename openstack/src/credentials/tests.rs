//! Credentials as people write them.

use super::*;
use std::collections::BTreeMap;
use std::fs;

fn env(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<> {
    let known: BTreeMap<String, String> =
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    move |name| known.get(name).cloned()
}

const PLAIN: [(&str, &str); 5] = [
    ("OS_AUTH_URL", "https://keystone:5000"),
    ("OS_USERNAME", "nova"),
    ("OS_PASSWORD", "hunter2"),
    ("OS_PROJECT_NAME", "service"),
    ("OS_USER_DOMAIN_NAME", "Ops"),
];

fn plus(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    PLAIN.iter().chain(more).copied().collect()
}

#[test]
fn the_environment_makes_a_password_login() {
    let got = Credentials::from_env_with(false, &env(&PLAIN)).unwrap();
    assert_eq!(got.auth_url.as_str(), "https://keystone:5000/v3");
    let Method::Password { user, project, .. } = &got.method else { panic!("no password") };
    assert_eq!(*user, User::Name { name: "nova".into(), domain: Domain::Name("Ops".into()) });
    assert_eq!(*project, Project::Name { name: "service".into(), domain: Domain::Id("default".into()) });
    assert_eq!((got.interface, got.tls.verify), (Interface::Public, true));
}

#[test]
fn nothing_of_a_secret_is_printed() {
    let got = Credentials::from_env_with(false, &env(&PLAIN)).unwrap();
    assert!(!format!("{got:?}").contains("hunter2"));
}

#[test]
fn region_interface_authority_and_endpoint_are_read() {
    let more = [
        ("OS_REGION_NAME", "two"),
        ("OS_ENDPOINT_TYPE", "internalURL"),
        ("OS_CACERT", "~/ca.pem"),
        ("HOME", "/home/op"),
        ("OS_COMPUTE_ENDPOINT_OVERRIDE", "http://nova:8774/v2.1"),
    ];
    let got = Credentials::from_env_with(false, &env(&plus(&more))).unwrap();
    assert_eq!((got.region.as_deref(), got.interface), (Some("two"), Interface::Internal));
    assert_eq!(got.tls.ca.as_deref(), Some(Path::new("/home/op/ca.pem")));
    assert_eq!(got.compute_endpoint.unwrap().as_str(), "http://nova:8774/v2.1");
}

#[test]
fn what_is_missing_or_not_spoken_is_named() {
    for left_out in ["OS_AUTH_URL", "OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME"] {
        let rest: Vec<_> = PLAIN.into_iter().filter(|(name, _)| *name != left_out).collect();
        let problem = Credentials::from_env_with(false, &env(&rest)).unwrap_err().to_string();
        let key = left_out.trim_start_matches("OS_").to_ascii_lowercase();
        assert!(problem.contains(&format!("lacks `{key}`")), "{problem}");
    }
    for (name, value) in [
        ("OS_AUTH_TYPE", "v3oidcpassword"),
        ("OS_SYSTEM_SCOPE", "all"),
        ("OS_IDENTITY_API_VERSION", "2.0"),
        ("OS_INTERFACE", "outside"),
        ("OS_AUTH_URL", "http://k:5000/v2.0"),
        ("OS_INSECURE", "perhaps"),
    ] {
        let problem = Credentials::from_env_with(false, &env(&plus(&[(name, value)]))).unwrap_err();
        assert!(matches!(problem, CredentialsProblem::Unsupported { .. }), "{name}: {problem}");
    }
    let problem = Credentials::from_env_with(false, &env(&plus(&[("OS_AUTH_URL", "keystone")]))).unwrap_err();
    assert!(matches!(problem, CredentialsProblem::Url { .. }), "{problem}");
}

#[test]
fn unchecked_certificates_need_an_explicit_word() {
    for pair in [("OS_INSECURE", "true"), ("OS_VERIFY", "False")] {
        let all = plus(&[pair]);
        let problem = Credentials::from_env_with(false, &env(&all)).unwrap_err();
        assert!(matches!(problem, CredentialsProblem::Insecure { .. }) && problem.to_string().contains("cacert"));
        assert!(!Credentials::from_env_with(true, &env(&all)).unwrap().tls.verify);
    }
}

#[test]
fn a_password_can_be_in_a_file_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    fs::write(&file, "from a file \n").unwrap();
    let path = file.display().to_string();
    let rest: Vec<_> = PLAIN.into_iter().filter(|(name, _)| *name != "OS_PASSWORD").collect();
    let all: Vec<_> = rest.into_iter().chain([("OS_PASSWORD_FILE", path.as_str())]).collect();
    let got = Credentials::from_env_with(false, &env(&all)).unwrap();
    let Method::Password { password, .. } = got.method else { panic!("no password") };
    assert_eq!(password.read().unwrap(), Secret::new("from a file "));
    fs::write(&file, "\n").unwrap();
    assert!(password.read().unwrap_err().to_string().contains("empty"));
    let problem = Credentials::from_env_with(false, &env(&all)).unwrap_err();
    assert!(matches!(problem, CredentialsProblem::Unreadable { .. }));
}

#[test]
fn an_application_credential_goes_by_id_or_by_name_and_user() {
    let base = [("OS_AUTH_URL", "http://k/identity"), ("OS_APPLICATION_CREDENTIAL_SECRET", "s")];
    let by_id = [base[0], base[1], ("OS_APPLICATION_CREDENTIAL_ID", "abc")];
    let got = Credentials::from_env_with(false, &env(&by_id)).unwrap();
    assert_eq!(got.auth_url.as_str(), "http://k/identity/v3");
    assert!(matches!(got.method, Method::ApplicationCredential { who: Who::Id(id), .. } if id == "abc"));
    let by_name = [base[0], base[1], ("OS_APPLICATION_CREDENTIAL_NAME", "ha"), ("OS_USER_ID", "u")];
    let got = Credentials::from_env_with(false, &env(&by_name)).unwrap();
    let Method::ApplicationCredential { who: Who::Name { name, user }, .. } = got.method else { panic!("no name") };
    assert_eq!((name.as_str(), user), ("ha", User::Id("u".into())));
}

const CLOUDS: &str = "
clouds:
  one:
    auth: &auth
      auth_url: http://one:5000/v3/
      username: admin
      project_id: p1
    region_name: R1
    verify: true
  two:
    <<: {interface: internal}
    auth:
      <<: *auth
      auth_url: http://two:5000
      password: 0815
    regions: [{name: only}]
";

#[test]
fn a_cloud_is_found_by_name_and_secrets_may_be_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let (clouds, secure) = (dir.path().join("clouds.yaml"), dir.path().join("secure.yaml"));
    fs::write(&clouds, CLOUDS).unwrap();
    fs::write(&secure, "clouds: {one: {auth: {password: from-secure}}, other: {auth: {password: x}}}").unwrap();
    let secure = secure.display().to_string();
    let vars = env(&[("OS_CLIENT_SECURE_FILE", secure.as_str()), ("OS_CLOUD", "two")]);
    let one = Credentials::from_clouds_yaml_with(Some(&clouds), Some("one"), false, &vars).unwrap();
    assert_eq!((one.auth_url.as_str(), one.region.as_deref()), ("http://one:5000/v3", Some("R1")));
    let Method::Password { password, project, .. } = one.method else { panic!("no password") };
    assert_eq!((password.read().unwrap(), project), (Secret::new("from-secure"), Project::Id("p1".into())));
    let two = Credentials::from_clouds_yaml_with(Some(&clouds), None, false, &vars).unwrap();
    assert_eq!((two.auth_url.as_str(), two.interface), ("http://two:5000/v3", Interface::Internal));
    assert_eq!(two.region.as_deref(), Some("only"));
    let Method::Password { password, .. } = two.method else { panic!("no password") };
    assert_eq!(password.read().unwrap(), Secret::new("0815"));
}

#[test]
fn which_cloud_and_which_file_are_asked_back() {
    let dir = tempfile::tempdir().unwrap();
    let clouds = dir.path().join("clouds.yaml");
    fs::write(&clouds, CLOUDS).unwrap();
    let none = env(&[("HOME", "/nonexistent")]);
    let read = |cloud: Option<&str>| Credentials::from_clouds_yaml_with(Some(&clouds), cloud, false, &none);
    assert!(matches!(read(None), Err(CredentialsProblem::WhichCloud { known, .. }) if known == ["one", "two"]));
    assert!(read(Some("tow")).unwrap_err().to_string().contains("it has one, two"));
    assert!(matches!(read(Some("one")), Err(CredentialsProblem::Missing { key: "password", .. })));
    fs::write(&clouds, "clouds: [").unwrap();
    assert!(matches!(read(None), Err(CredentialsProblem::Unreadable { .. })));
    let gone = env(&[("OS_CLIENT_CONFIG_FILE", "/nonexistent/clouds.yaml")]);
    let problem = Credentials::from_clouds_yaml_with(None, None, false, &gone).unwrap_err();
    assert!(problem.to_string().contains("/nonexistent/clouds.yaml"), "{problem}");
}

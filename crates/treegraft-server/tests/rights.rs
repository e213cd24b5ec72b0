//! Rights: the whole table of repository, key, ref and action, and clients that lie to get more.

mod support;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};
use support::{
    Place, Wire,
    objects::{Object, Pushed, dirmeta, offer, regular_file},
    open_request,
};
use treegraft_object::{
    Commit, CommitId, DirTree,
    gvariant::{Dict, Variant},
};
use treegraft_repo::Find;
use treegraft_server::{
    Receiver,
    config::{FlatpakUpdate, ServerConfig, Settings},
    rights::{Action, Caller, KeyName, PushLimits},
};
use treegraft_wire::{ApiError, ErrorCode};

/// Three repositories: with rules for each key, with rules from the defaults, and without rules.
const CONFIG: &str = r#"
[defaults]
flatpak-update = "never"
[[defaults.rule]]
keys = ["gnome-ci", "release"]
refs = ["app/*/x86_64/beta"]

[[repository]]
path = "PATH/stable"
[[repository.rule]]
keys = ["gnome-ci"]
refs = ["app/org.gnome.*", "runtime/org.gnome.*"]
[[repository.rule]]
keys = ["release"]
refs = ["app/org.gnome.Maps", "os/testing"]
allow = ["rebase", "exact", "force", "older", "mirrors", "subsets", "token-type"]
[[repository.rule]]
keys = ["kde-ci"]
refs = ["app/org.kde.*"]
allow = ["exact"]
[[repository.rule]]
keys = ["kde-ci", "gnome-ci"]
refs = ["app/*/x86_64/beta"]
allow = ["older", "subsets"]
[[repository.rule]]
refs = ["os"]

[[repository]]
path = "PATH/open"
rule = []
"#;

/// What is allowed: repository, key (`-` for none), ref, actions. Nothing else is.
const ALLOWED: &str = "
stable gnome-ci app/org.gnome.Maps/x86_64/stable        rebase
stable gnome-ci app/org.gnome.Maps/x86_64/beta          rebase older subsets own-subsets
stable gnome-ci runtime/org.gnome.Platform/x86_64/47    rebase
stable gnome-ci os/testing                              rebase own-subsets own-token-type
stable kde-ci   app/org.kde.Kate/x86_64/stable          exact
stable kde-ci   app/org.gnome.Maps/x86_64/beta
stable kde-ci   os/testing                              rebase own-subsets own-token-type
stable release  app/org.gnome.Maps/x86_64/stable        rebase exact force older mirrors subsets token-type own-subsets own-token-type
stable release  app/org.gnome.Maps/x86_64/beta          rebase exact force older mirrors subsets token-type own-subsets own-token-type
stable release  os/testing                              rebase exact force older own-subsets own-token-type
stable unknown  os/testing                              rebase own-subsets own-token-type
stable -        os/testing                              rebase own-subsets own-token-type
nightly gnome-ci app/org.gnome.Maps/x86_64/beta         rebase
nightly release  app/org.gnome.Maps/x86_64/beta         rebase
";

const REPOSITORIES: [&str; 3] = ["stable", "nightly", "open"];
const KEYS: [&str; 5] = ["gnome-ci", "kde-ci", "release", "unknown", "-"];
const REFS: [&str; 6] = [
    "app/org.gnome.Maps/x86_64/stable",
    "app/org.gnome.Maps/x86_64/beta",
    "runtime/org.gnome.Platform/x86_64/47",
    "app/org.gnomes.Trap/x86_64/stable",
    "app/org.kde.Kate/x86_64/stable",
    "os/testing",
];

/// The actions of the configuration, and the two that a commit can also ask for by what it says itself.
const ACTIONS: [&str; 9] =
    ["rebase", "exact", "force", "older", "mirrors", "subsets", "token-type", "own-subsets", "own-token-type"];

fn allowed(repository: &str, key: &str, name: &str, action: &str) -> bool {
    // Without rules, everything is but what has to be allowed by a setting.
    let in_open = repository == "open" && action != "force";
    let in_table = ALLOWED.lines().any(|line| {
        let mut words = line.split_whitespace();
        [repository, key, name].iter().all(|word| words.next() == Some(word)) && words.any(|word| word == action)
    });
    in_open || in_table
}

fn place_of(repository: &str) -> (Place, ServerConfig) {
    let place = Place::named(repository);
    place.without_fsync(repository);
    let text = CONFIG.replace("PATH", &place.path("").display().to_string());
    (place, ServerConfig::parse(&text).expect("the configuration is valid"))
}

fn caller(key: &str) -> Caller {
    let key = (key != "-").then(|| KeyName::new(key).expect("a valid name"));
    Caller { key, ..Caller::anybody() }
}

fn receiver(place: &Place, repository: &str, settings: Settings, caller: Caller) -> Arc<Receiver> {
    let receiver = Receiver::open(&place.path(repository), settings, || 1_767_225_600).expect("it can be pushed to");
    Arc::new(receiver.for_caller(caller))
}

/// Settings without rules, under which a test can prepare what it needs.
fn open_settings() -> Settings {
    Settings { flatpak_update: FlatpakUpdate::Never, ..Settings::default() }
}

/// Makes a push that does one thing to a ref whose head is given.
fn doing(action: &str, name: &str, head: Option<(CommitId, Commit)>, serial: u32) -> Pushed {
    let (parent, old) = head.unzip();
    let now = old.as_ref().map_or(1_000_000, |commit| commit.timestamp_secs);
    let mut metadata = Dict::new();
    metadata.set("ostree.ref-binding", Variant::strings([name]));
    for key in ["xa.subsets", "xa.token-type"] {
        if let Some(value) = old.as_ref().and_then(|commit| commit.metadata.get(key)) {
            metadata.set(key, value.clone());
        }
    }
    let token = i32::try_from(serial).expect("few cases");
    match action {
        "own-subsets" => metadata.set("xa.subsets", Variant::strings([format!("subset{serial}")])),
        "own-token-type" => metadata.set("xa.token-type", Variant::int32(token)),
        _ => {}
    }
    let timestamp_secs = if action == "older" { now - 1 } else { now + 1 };
    let parent = parent.filter(|_| action == "exact");
    let mut pushed = commit_of(name, &format!("content {serial}"), metadata, timestamp_secs, parent);
    let fields: &[(&str, Value)] = match action {
        "exact" => &[("mode", json!("exact"))],
        "force" => &[("mode", json!("exact")), ("force", json!(true))],
        "older" => &[("allow_older", json!(true))],
        "mirrors" => &[("graft", json!({ "extra_collection_ids": ["org.example.Extra"] }))],
        "subsets" => &[("graft", json!({ "subsets": [format!("subset{serial}")] }))],
        "token-type" => &[("graft", json!({ "token_type": token }))],
        _ => &[],
    };
    for (field, value) in fields {
        pushed.offer[field] = value.clone();
    }
    pushed
}

fn commit_of(name: &str, content: &str, metadata: Dict, timestamp_secs: u64, parent: Option<CommitId>) -> Pushed {
    let (file, filez) = regular_file(content.as_bytes());
    let tree = DirTree { files: vec![("file".to_owned(), file)], dirs: Vec::new() };
    let (subject, root_meta) = ("A subject".to_owned(), dirmeta().id());
    let (root_tree, body) = (tree.id(), String::new());
    let commit = Commit { metadata, parent, subject, body, timestamp_secs, root_tree, root_meta };
    let objects: Vec<Object> = vec![
        (file.into(), filez),
        (root_meta.into(), dirmeta().encode()),
        (root_tree.into(), tree.encode()),
        (commit.id().into(), commit.encode()),
    ];
    Pushed { id: commit.id(), offer: offer(name, &commit), commit, objects }
}

/// Makes a text that cannot be compressed by much.
fn noise(bytes: usize) -> String {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'0' + u8::try_from(state >> 26).expect("six bits"))
    };
    (0..bytes).map(|_| next()).collect()
}

/// Opens, sends and publishes, up to the first refusal.
async fn attempt(wire: &Wire, pushed: &Pushed) -> Result<(), ApiError> {
    let reply = wire.open(&open_request(&[&pushed.offer])).await;
    if reply.status != 201 {
        return Err(reply.error());
    }
    let push = reply.json::<treegraft_wire::OpenAnswer>().push.0;
    let sent = wire.objects(&push, &pushed.objects).await;
    if sent.status != 200 {
        return Err(sent.error());
    }
    wire.publish(&push).await.published().map(drop)
}

/// Every key does every thing to every ref of every repository.
#[tokio::test(flavor = "multi_thread")]
async fn the_whole_table() {
    let (mut serial, mut granted) = (1, 0);
    for repository in REPOSITORIES {
        let (place, config) = place_of(repository);
        let settings = config.settings(&place.path(repository));
        // Each ref has a head, so that every action has something to act on.
        let base = receiver(&place, repository, open_settings(), Caller::anybody());
        for name in REFS {
            let first = commit_of(name, name, Dict::new(), 1_000_000, None);
            attempt(&Wire::connect(Arc::clone(&base)).await, &first).await.expect("the server's own push");
        }
        for key in KEYS {
            let wire = Wire::connect(receiver(&place, repository, settings.clone(), caller(key))).await;
            for (name, action) in REFS.iter().flat_map(|name| ACTIONS.map(|action| (*name, action))) {
                let case = format!("`{key}` does `{action}` to `{name}` in `{repository}`");
                let before = place.refs_of(repository);
                let head = place
                    .head_of(repository, name)
                    .map(|id| (id, place.repo_of(repository).commit(id).expect("the head can be read")));
                let pushed = doing(action, name, head, serial);
                serial += 1;
                let result = attempt(&wire, &pushed).await;
                let has_meaning = name.starts_with("os/")
                    && matches!(action, "mirrors" | "subsets" | "token-type")
                    && (repository == "open" || key == "release" && repository == "stable");
                if has_meaning {
                    let error = result.expect_err(&case);
                    assert_eq!(error.code, ErrorCode::GraftOption, "it is allowed, and means nothing here: {case}");
                } else if allowed(repository, key, name, action) {
                    result.unwrap_or_else(|error| panic!("it is allowed: {case}: {error:?}"));
                    assert_ne!(place.refs_of(repository), before, "something was published: {case}");
                    granted += 1;
                } else {
                    let error = result.expect_err(&case);
                    assert_eq!(error.code, ErrorCode::NotAllowed, "it is refused: {case}: {error:?}");
                    assert_eq!(error.ref_name.as_deref(), Some(name), "the refusal names the ref: {case}");
                    assert!(error.hint.is_some(), "it says who can change that: {case}: {error:?}");
                    assert_eq!(place.refs_of(repository), before, "and nothing has moved: {case}");
                }
            }
            wire.close().await;
        }
    }
    let words: usize = ALLOWED.lines().map(|line| line.split_whitespace().skip(3).count()).sum();
    let in_open = KEYS.len() * (REFS.len() * (ACTIONS.len() - 1) - 3);
    assert_eq!(granted, words + in_open, "every line of the table was reached");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_which_right_is_missing_and_who_can_give_it() {
    let (place, config) = place_of("stable");
    let settings = config.settings(&place.path("stable"));
    let maps = "app/org.gnome.Maps/x86_64/stable";
    let refusal = async |caller: Caller, settings: &Settings, action: &str, name: &str| {
        let wire = Wire::connect(receiver(&place, "stable", settings.clone(), caller)).await;
        attempt(&wire, &doing(action, name, None, 1)).await.expect_err("it is refused")
    };
    let narrowed = |denied: &[Action], refs: &[&str]| Caller {
        denied: denied.iter().copied().collect(),
        only_refs: refs.iter().map(|text| text.parse().expect("a pattern")).collect(),
        ..caller("release")
    };
    let forbidding = Settings { allow_exact: Some(false), ..settings.clone() };
    let cases = [
        (caller("kde-ci"), &settings, "rebase", "ref", "`app/org.kde.*`, `app/*/x86_64/beta`, `os`"),
        (caller("-"), &settings, "rebase", "ref", "let you push to `os`"),
        (caller("gnome-ci"), &settings, "exact", "exact", "`allow = [\"exact\"]`"),
        (narrowed(&[Action::Exact], &[]), &settings, "exact", "exact", "`--deny-exact`"),
        (narrowed(&[], &["os"]), &settings, "rebase", "ref", "`authorized_keys` covers `os`"),
        (caller("release"), &forbidding, "exact", "exact", "`allow-exact = true`"),
    ];
    for (caller, settings, action, rule, hint) in cases {
        let error = refusal(caller, settings, action, maps).await;
        assert_eq!(error.code, ErrorCode::NotAllowed, "{error:?}");
        assert_eq!(error.rule.as_deref(), Some(rule), "the missing right is named: {error:?}");
        let told = error.hint.unwrap_or_default();
        // The patterns are listed in the order of the alphabet.
        assert!(hint.split(", ").all(|part| told.contains(part)), "the hint leads on ({hint}): {told}");
    }
}

/// A push that may do something to one of its refs may not do it to the other.
#[tokio::test(flavor = "multi_thread")]
async fn one_ref_that_is_refused_refuses_the_push() {
    let (place, config) = place_of("stable");
    let settings = config.settings(&place.path("stable"));
    let wire = Wire::connect(receiver(&place, "stable", settings, caller("kde-ci"))).await;
    let kate = doing("exact", "app/org.kde.Kate/x86_64/stable", None, 1);
    let maps = doing("exact", "app/org.gnome.Maps/x86_64/stable", None, 2);
    for offers in [[&kate.offer, &maps.offer], [&maps.offer, &kate.offer]] {
        let error = wire.open(&open_request(&offers)).await.error();
        assert_eq!(error.code, ErrorCode::NotAllowed, "{error:?}");
        assert_eq!(error.ref_name.as_deref(), Some("app/org.gnome.Maps/x86_64/stable"), "the ref is named");
    }
    let mut dry_run = open_request(&[&maps.offer]);
    dry_run["purpose"] = json!("dry-run");
    assert_eq!(wire.open(&dry_run).await.code(), ErrorCode::NotAllowed, "a dry run says what a push would");
    assert_eq!(place.refs_of("stable"), BTreeMap::new(), "nothing is published");
}

/// Whatever a client says about itself, its rights are those of the key.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_of_itself_gains_nothing() {
    let (place, config) = place_of("stable");
    let settings = config.settings(&place.path("stable"));
    let wire = Wire::connect(receiver(&place, "stable", settings, caller("gnome-ci"))).await;
    let pushed = doing("exact", "app/org.kde.Kate/x86_64/stable", None, 1);
    let lies = [
        ("client", json!("treegraft receive --as release")),
        ("as", json!("release")),
        ("key", json!("kde-ci")),
        ("caller", json!({ "key": "kde-ci", "denied": [] })),
        ("keys", json!(["kde-ci"])),
        ("rule", json!([{ "refs": ["*"], "allow": ["exact"] }])),
        ("settings", json!({ "rule": [], "allow_exact": true })),
        ("features", json!(["exact", "force", "as=kde-ci"])),
        ("repository", json!("PATH/open")),
        ("path", json!("/srv/open")),
        ("limits", json!({ "push_bytes": u64::MAX })),
    ];
    for (field, value) in &lies {
        let mut request = open_request(&[&pushed.offer]);
        request[field] = value.clone();
        assert_eq!(
            wire.open(&request).await.code(),
            ErrorCode::NotAllowed,
            "`{field}` of the request is no word to believe"
        );
        let mut offer = pushed.offer.clone();
        offer[field] = value.clone();
        assert_eq!(wire.open(&open_request(&[&offer])).await.code(), ErrorCode::NotAllowed, "nor is that of a ref");
    }
    // Names that look like the ones that are allowed.
    let names = [
        ("app/org.gnome.Maps/../org.kde.Kate/x86_64/stable", ErrorCode::BadRequest),
        ("./app/org.gnome.Maps/x86_64/stable", ErrorCode::BadRequest),
        ("app//org.gnome.Maps/x86_64/stable", ErrorCode::BadRequest),
        ("app/org.gnome.Maps/x86_64/stable/", ErrorCode::BadRequest),
        ("app/org.gnome.Maps/x86_64/stable\0", ErrorCode::BadRequest),
        ("app/org.gnome.Maps/x86_64/stable\n", ErrorCode::BadRequest),
        ("app/*/x86_64/stable", ErrorCode::BadRequest),
        ("heads/app/org.gnome.Maps/x86_64/stable", ErrorCode::NotAllowed),
        ("refs/heads/app/org.gnome.Maps/x86_64/stable", ErrorCode::NotAllowed),
        ("App/org.gnome.Maps/x86_64/stable", ErrorCode::NotAllowed),
        ("app/org.gnоme.Maps/x86_64/stable", ErrorCode::NotAllowed), // a Cyrillic о
        ("app/org.gnome", ErrorCode::NotAllowed),
        ("app", ErrorCode::NotAllowed),
    ];
    for (name, code) in names {
        let mut offer = pushed.offer.clone();
        offer["name"] = json!(name);
        offer["mode"] = json!("rebase");
        let error = wire.open(&open_request(&[&offer])).await.error();
        assert_eq!(error.code, code, "`{}` is none of the refs: {error:?}", name.escape_debug());
    }
    assert_eq!(place.refs_of("stable"), BTreeMap::new(), "nothing is published");
}

/// At the opening, the client's word about a commit is all there is; at the publish the commit counts.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_commit_says_counts_and_not_what_is_said_about_it() {
    let (place, config) = place_of("stable");
    let settings = config.settings(&place.path("stable"));
    let maps = "app/org.gnome.Maps/x86_64/stable";
    let base = receiver(&place, "stable", open_settings(), Caller::anybody());
    let first = commit_of(maps, "first", Dict::new(), 1_000_000, None);
    attempt(&Wire::connect(base).await, &first).await.expect("the server's own push");
    let head = place.head_of("stable", maps);
    let wire = Wire::connect(receiver(&place, "stable", settings, caller("gnome-ci"))).await;
    for (lie, seen, rule) in
        [("timestamp_secs", "older", "older"), ("", "own-subsets", "subsets"), ("", "own-token-type", "token-type")]
    {
        let head_commit = head.map(|id| (id, place.repo_of("stable").commit(id).expect("it can be read")));
        let mut pushed = doing(seen, maps, head_commit, 7);
        if !lie.is_empty() {
            pushed.offer[lie] = json!(2_000_000);
        }
        let push = wire.opened(&open_request(&[&pushed.offer])).await.push.0;
        assert_eq!(wire.objects(&push, &pushed.objects).await.status, 200, "the objects are sound");
        let error = wire.publish(&push).await.published().expect_err("the commit itself is looked at");
        assert_eq!((error.code, error.rule.as_deref()), (ErrorCode::NotAllowed, Some(rule)), "`{seen}`: {error:?}");
        assert_eq!(place.head_of("stable", maps), head, "nothing has moved");
    }
}

/// A commit that is bound to a ref passes for that ref's own wherever a client meets it.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_bound_to_no_ref_that_its_pusher_may_not_write() {
    let (place, config) = place_of("stable");
    let settings = config.settings(&place.path("stable"));
    let binding = |names: &[&str]| {
        let mut metadata = Dict::new();
        metadata.set("ostree.ref-binding", Variant::strings(names));
        metadata
    };
    for (key, name, mode, bound, is_allowed) in [
        ("unknown", "os/testing", "rebase", "os/other", true),
        ("unknown", "os/testing", "rebase", "app/org.gnome.Maps/x86_64/stable", false),
        ("release", "os/testing", "rebase", "app/org.gnome.Maps/x86_64/stable", true),
        ("kde-ci", "app/org.kde.Kate/x86_64/stable", "exact", "app/org.kde.Kate/x86_64/beta", true),
        ("kde-ci", "app/org.kde.Kate/x86_64/stable", "exact", "os/testing", false),
    ] {
        let wire = Wire::connect(receiver(&place, "stable", settings.clone(), caller(key))).await;
        let is_exact = mode == "exact";
        let metadata = if is_exact { binding(&[name, bound]) } else { Dict::new() };
        let parent = place.head_of("stable", name).filter(|_| is_exact);
        let serial = format!("{key} {bound}");
        let mut pushed = commit_of(name, &serial, metadata, 1_000_001, parent);
        pushed.offer["mode"] = json!(mode);
        if !is_exact {
            pushed.offer["graft"] = json!({ "bind_refs": [bound] });
        }
        let before = place.head_of("stable", name);
        let result = attempt(&wire, &pushed).await;
        let case = format!("`{key}` binds `{name}` to `{bound}` with `{mode}`: {result:?}");
        assert_eq!(result.is_ok(), is_allowed, "{case}");
        if let Err(error) = result {
            assert_eq!(error.code, ErrorCode::NotAllowed, "{case}");
            assert_eq!(place.head_of("stable", name), before, "nothing has moved");
        }
    }
}

/// All commits that come onto the ref are signed, and not the pushed one alone.
#[tokio::test(flavor = "multi_thread")]
async fn no_ancestor_is_bound_to_a_ref_that_its_pusher_may_not_write_and_each_is_bound_to_one() {
    let (place, config) = place_of("stable");
    let settings = config.settings(&place.path("stable"));
    let (name, other) = ("app/org.kde.Kate/x86_64/stable", "os/testing");
    let bound = |to: Option<&str>| {
        let mut metadata = Dict::new();
        if let Some(to) = to {
            metadata.set("ostree.ref-binding", Variant::strings([to]));
        }
        metadata
    };
    let cases = [
        (Some(name), Some(name), true),
        (Some(other), Some(name), false),
        (None, Some(name), false),
        (Some(name), None, false),
    ];
    for (serial, (ancestor, tip, is_allowed)) in cases.into_iter().enumerate() {
        let before = place.head_of("stable", name);
        let older = commit_of(name, &format!("ancestor {serial}"), bound(ancestor), 1_000_001, before);
        let mut pushed = commit_of(name, &format!("tip {serial}"), bound(tip), 1_000_002, Some(older.id));
        pushed.objects.extend(older.objects);
        pushed.offer["mode"] = json!("exact");
        let wire = Wire::connect(receiver(&place, "stable", settings.clone(), caller("kde-ci"))).await;
        let result = attempt(&wire, &pushed).await;
        let case = format!("an ancestor bound to {ancestor:?}, and the tip to {tip:?}: {result:?}");
        assert_eq!(result.is_ok(), is_allowed, "{case}");
        if let Err(error) = result {
            assert_eq!(error.code, ErrorCode::NotAllowed, "{case}");
            assert_eq!(place.head_of("stable", name), before, "nothing has moved");
        }
    }
}

/// With such a name nobody could write the summary any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_names_no_subset_that_makes_no_ref() {
    let place = Place::new();
    for (mode, subset, is_allowed) in
        [("rebase", "a b", false), ("exact", "../other", false), ("rebase", "verified", true)]
    {
        let mut metadata = Dict::new();
        metadata.set("xa.subsets", Variant::strings([subset]));
        let name = "app/org.gnome.Maps/x86_64/stable";
        let mut pushed = commit_of(name, subset, metadata, 1_000_000, None);
        pushed.offer["mode"] = json!(mode);
        let settings = Settings { flatpak_update: FlatpakUpdate::Never, ..Settings::default() };
        let result = attempt(&Wire::connect(place.receiver(settings)).await, &pushed).await;
        assert_eq!(result.is_ok(), is_allowed, "{mode} of {subset:?}: {result:?}");
        if let Err(error) = result {
            assert_eq!(error.code, ErrorCode::GraftOption, "{error:?}");
            assert!(error.hint.is_some(), "it is told what to do: {error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_rule_hold_for_what_is_sent_and_for_what_is_published() {
    let place = Place::new();
    let text = r#"
[[repository]]
path = "PATH/repo"
max-push-objects = 5
[[repository.rule]]
refs = ["main", "small"]
max-push-bytes = 4000
max-object-bytes = 3000
[[repository.rule]]
refs = ["small"]
max-push-bytes = 3500
max-object-bytes = 200
[[repository.rule]]
refs = ["tiny"]
max-push-bytes = 600
max-object-bytes = 100
"#;
    let config =
        ServerConfig::parse(&text.replace("PATH", &place.path("").display().to_string())).expect("it is valid");
    let settings = config.settings(&place.path("repo"));
    let connect = async |limits: PushLimits| {
        let caller = Caller { limits, ..Caller::anybody() };
        Wire::connect(receiver(&place, "repo", settings.clone(), caller)).await
    };
    let commit = |name: &str, content: &str| commit_of(name, content, Dict::new(), 1_000_000, None);
    let wire = connect(PushLimits::NONE).await;
    attempt(&wire, &commit("main", &noise(2000))).await.expect("some 2,000 bytes are allowed");
    attempt(&wire, &commit("small", &noise(2001))).await.expect("of two rules the more generous one counts");
    for (name, content, key) in [
        ("main", noise(4500), "max-object-bytes"),
        ("tiny", noise(150), "max-object-bytes"),
        ("main", noise(9000), "max-push-bytes"),
    ] {
        let error = attempt(&wire, &commit(name, &content)).await.expect_err("it is too large");
        assert_eq!(error.code, ErrorCode::TooLarge, "`{name}`: {error:?}");
        assert!(error.hint.as_deref().unwrap_or_default().contains(key), "the key is named: {error:?}");
    }
    // The same sent again and again counts each time.
    let pushed = commit("main", &noise(1000));
    let push = wire.opened(&open_request(&[&pushed.offer])).await;
    assert_eq!(push.limits.object_bytes, 3000, "the client is told the limit of the rule");
    let file = &pushed.objects[..1];
    assert_eq!(wire.objects(&push.push.0, file).await.status, 200, "once");
    let mut codes = Vec::new();
    for _ in 0..8 {
        let reply = wire.objects(&push.push.0, file).await;
        codes.push((reply.status != 200).then(|| reply.code()));
    }
    assert_eq!(codes.last(), Some(&Some(ErrorCode::TooLarge)), "a client that sends for ever is stopped: {codes:?}");
    wire.close().await;

    // What earlier connections have sent is not free either.
    let halves: Vec<_> = [("tiny", "a"), ("main", "b")].map(|(name, content)| commit(name, content)).into();
    let both = open_request(&[&halves[0].offer, &halves[1].offer]);
    let two = PushLimits { push_objects: 2, ..PushLimits::NONE };
    let wire = connect(two).await;
    let push = wire.opened(&both).await;
    assert_eq!(push.limits.object_bytes, 100, "the lowest limit of all refs counts");
    let (first, rest) = halves[0].objects.split_at(2);
    assert_eq!(wire.objects(&push.push.0, first).await.status, 200, "two objects");
    assert_eq!(wire.objects(&push.push.0, rest).await.code(), ErrorCode::TooLarge, "and no third");
    wire.close().await;
    let wire = connect(two).await;
    let push = wire.opened(&open_request(&[&halves[0].offer])).await;
    assert!(push.resumed.objects >= 2, "what was received is there: {push:?}");
    assert_eq!(wire.objects(&push.push.0, rest).await.status, 200, "the other two come now");
    let error = wire.publish(&push.push.0).await.published().expect_err("the tree has three objects");
    assert_eq!(error.code, ErrorCode::TooLarge, "{error:?}");
    assert_eq!(place.head_of("repo", "tiny"), None, "nothing is published");
}

#[test]
fn a_rule_is_checked_when_the_file_is_read() {
    let parse =
        |rule: &str| ServerConfig::parse(&format!("[[repository]]\npath = \"/srv\"\n[[repository.rule]]\n{rule}"));
    for (wrong, told) in [
        ("keys = [\"ci\"]", "missing field `refs`"),
        ("refs = []", "the list is empty"),
        ("refs = [\"*\"]\nkeys = []", "the list is empty"),
        ("refs = [\"app/**\"]", "`app/**` is not a valid ref pattern"),
        ("refs = [\"/app\"]", "is not a valid ref pattern"),
        ("refs = \"app\"", "expected a sequence"),
        ("refs = [\"*\"]\nallow = [\"delete\"]", "unknown variant `delete`"),
        ("refs = [\"*\"]\nkeys = [\"two words\"]", "`two words` is not a valid name of a key"),
        ("refs = [\"*\"]\nmax-push-bytes = -1", "max-push-bytes"),
        ("refs = [\"*\"]\nallowed = [\"rebase\"]", "unknown field `allowed`"),
    ] {
        let error = parse(wrong).expect_err("the rule is wrong").to_string();
        assert!(error.contains(told), "`{wrong}` is refused because of `{told}`: {error}");
    }
    assert!(parse("refs = [\"*\"]").is_ok(), "the shortest rule");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_does_not_grow_beyond_its_quota() {
    let place = Place::new();
    let connect = async |quota: Option<u64>| {
        let settings = Settings { max_repository_bytes: quota, ..Settings::default() };
        Wire::connect(receiver(&place, "repo", settings, Caller::anybody())).await
    };
    let commit = |name: &str, content: &str| commit_of(name, content, Dict::new(), 1_000_000, None);
    let used = || treegraft_repo::Usage::of(&place.repo()).expect("it can be looked at");
    attempt(&connect(None).await, &commit("main", "x")).await.expect("there is no quota");
    let bytes = used().object_bytes;
    assert!(bytes > 0 && used().staged_bytes == 0, "what was published is counted: {:?}", used());

    let refused =
        async |quota: u64| attempt(&connect(Some(quota)).await, &commit("more", "y")).await.expect_err("full").code;
    for quota in [0, 1, bytes - 1, bytes, bytes + 10] {
        assert_eq!(refused(quota).await, ErrorCode::Quota, "{bytes} bytes are there, {quota} are allowed");
    }
    assert_eq!(place.head("more"), None, "nothing is published");
    let unchanged = connect(Some(bytes)).await.open(&open_request(&[&commit("main", "x").offer])).await;
    assert_eq!(unchanged.status, 201, "what is there already needs no room: {unchanged:?}");
    attempt(&connect(Some(bytes + 100_000)).await, &commit("more", "y")).await.expect("there is room");

    // Two pushes that fit alone, and not together.
    let room = used().object_bytes + used().staged_bytes + 4_500;
    let pushes = [commit("one", &format!("1{}", noise(3000))), commit("two", &format!("2{}", noise(3000)))];
    let (first, second) = (connect(Some(room)).await, connect(Some(room)).await);
    let opened = [
        first.opened(&open_request(&[&pushes[0].offer])).await.push.0,
        second.opened(&open_request(&[&pushes[1].offer])).await.push.0,
    ];
    for (wire, push, pushed) in [(&first, &opened[0], &pushes[0]), (&second, &opened[1], &pushes[1])] {
        assert_eq!(wire.objects(push, &pushed.objects).await.status, 200, "each has room by itself");
    }
    let third = connect(Some(room)).await.open(&open_request(&[&commit("three", "x").offer])).await;
    assert_eq!(third.code(), ErrorCode::Quota, "what others have staged leaves no room for a third");
    first.publish(&opened[0]).await.published().expect("the first one has room");
    let error = second.publish(&opened[1]).await.published().expect_err("the second one has none");
    assert_eq!(error.code, ErrorCode::Quota, "{error:?}");
    assert_eq!(place.head("two"), None, "nothing is published");
}

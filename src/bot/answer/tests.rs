//! Answers as people read them.

use reconcile::model::MessageId;

use super::*;

fn link() -> Url {
    Url::parse("https://bridge.example.org/login?link=abc.def").expect("an address")
}

fn listed(room: &str, name: &str, joined: bool, unread: u32, mentions: u32) -> ListedRoom {
    ListedRoom { room: room.into(), name: name.into(), joined, unread, mentions }
}

/// Answers as people read them, each under the name of its case.
fn transcript(answers: &[(&str, Answer)]) -> String {
    answers.iter().fold(String::new(), |text, (name, Answer { body, html })| {
        format!("{text}== {name}\n{body}\n-- html\n{html}\n\n")
    })
}

fn room(uri: &str) -> KnownRoom {
    KnownRoom { id: uri.into(), uri: Some(uri.into()), url: format!("/{uri}") }
}

#[test]
fn the_bot_greets_and_helps() {
    let mut answers = vec![
        ("not logged in", welcome(&link())),
        ("new chat, logged in", welcome_back("alice")),
        ("login finished", logged_in("Alice A", "alice", 12, 30)),
        ("login finished, one room", logged_in("Alice A", "alice", 1, 1)),
        ("login finished, no rooms", logged_in("Alice A", "alice", 0, 0)),
        ("login finished, nothing to open", logged_in("Alice A", "alice", 0, 3)),
        ("more rooms than opened", rest_of_rooms(20, &["a/b".into(), "@bob".into()])),
        ("none opened", rest_of_rooms(0, &["a/b".into()])),
        ("help", help()),
    ];
    answers.extend(Verb::ALL.map(|verb| (verb.word(), help_for(verb))));
    answers.extend([
        ("login", login_link(&link(), None)),
        ("login, logged in", login_link(&link(), Some("alice"))),
        ("token rejected", token_rejected(&link())),
        ("login lost", login_lost(&link())),
        ("third person", third_person()),
        ("encrypted room", encrypted_here()),
        ("the plain room", encrypted_there()),
    ]);
    insta::assert_snapshot!(transcript(&answers));
}

#[test]
fn the_bot_lists_rooms_sorted_and_marked() {
    let rooms = [
        listed("nodejs/node", "Node.js/node", true, 3, 0),
        listed("@bob", "Bob <B>", false, 0, 0),
        listed("Apache/kafka", "Apache/kafka", false, 100, 1),
        listed("matrix-org/gitter", "Matrix/The bridge", true, 12, 2),
    ];
    let text: String =
        list(&rooms).into_iter().map(|answer| transcript(&[("list", answer)])).collect();
    insta::assert_snapshot!(text + &transcript(&[("no rooms", list(&[]).remove(0))]));
}

#[test]
fn the_bot_says_what_became_of_commands() {
    let mut answers = Vec::new();
    for verb in [Verb::Join, Verb::Part, Verb::Invite, Verb::Logout] {
        answers.push((verb.usage(), working(verb, "nodejs/node")));
        answers.push((verb.usage(), done(verb, "nodejs/node")));
    }
    let reasons = [
        ("no such room", CouldNot::NoSuchRoom),
        ("not let in", CouldNot::NotLetIn),
        ("already there", CouldNot::AlreadyThere),
        ("already invited", CouldNot::AlreadyInvited),
        ("not there", CouldNot::NotThere),
        ("not logged in", CouldNot::NotLoggedIn(link())),
        ("too many commands", CouldNot::Busy),
        ("Gitter is down", CouldNot::GitterDown),
        ("homeserver refuses", CouldNot::MatrixRefused("you may not create rooms".into())),
        ("Gitter refuses", CouldNot::GitterRefused("the room is full".into())),
    ];
    for (name, reason) in reasons {
        answers.push((name, could_not(Verb::Join, "nodejs/node", &reason)));
    }
    answers.push(("nobody", could_not(Verb::Join, "@bob", &CouldNot::NoSuchPerson)));
    answers.push(("a person", could_not(Verb::Join, "bob", &CouldNot::IsPerson)));
    let logout = could_not(Verb::Logout, "", &CouldNot::NotLoggedIn(link()));
    answers.push(("logout, not logged in", logout));
    let (one, other) = (room("nodejs/node"), room("other/node"));
    answers.push(("which", which(Verb::Join, "node", &[&one, &other])));
    insta::assert_snapshot!(transcript(&answers));
}

#[test]
fn the_bot_tells_what_happened_elsewhere() {
    let cases = [
        ("left here", Closed::LeftHere),
        ("left on Gitter", Closed::LeftOnGitter),
        ("shut out", Closed::ShutOut),
        ("gone", Closed::Gone),
    ];
    let answers: Vec<_> = cases.map(|(name, why)| (name, portal_closed("nodejs/node", why))).into();
    insta::assert_snapshot!(transcript(&answers));
}

#[test]
fn the_bot_tells_of_messages_it_does_not_show() {
    let gap = |count, or_more| {
        let first: MessageId = "5fdbe7b0aa0000000000aa01".parse().expect("a valid id");
        let gap =
            Gap { since: first.before(), first, until: Millis(1_608_300_000_000), count, or_more };
        passed_over(&gap, "https://gitter.im/nodejs/node?at=5fdbe7b0aa0000000000aa01")
    };
    insta::assert_snapshot!(transcript(&[("one", gap(1, false)), ("many", gap(4_000, true))]));
}

#[test]
fn the_bot_explains_its_state() {
    let alice = Login::As { username: "alice".into(), name: "Alice A".into() };
    let steady = Status {
        login: alice.clone(),
        gitter_rooms: 1,
        joined: 1,
        invited: 0,
        pending: vec![],
        troubles: vec![],
    };
    let pending = |room: &str, why: Option<&str>, next: Option<&str>| Pending {
        room: room.into(),
        what: "open its room here".into(),
        why: why.map(Into::into),
        next: next.map(Into::into),
    };
    let busy = Status {
        gitter_rooms: 40,
        joined: 17,
        invited: 2,
        pending: vec![
            pending("a/b", None, Some("at once")),
            pending("c/d", Some("Gitter does not answer"), Some("in 40 seconds")),
            pending("e/f", Some("you are banned there"), None),
        ],
        troubles: vec!["Gitter's live events are cut off; messages may come late.".into()],
        ..steady.clone()
    };
    let nothing = Status { gitter_rooms: 0, joined: 0, ..steady.clone() };
    let out = Status { login: Login::Out { link: link() }, ..nothing };
    let rejected = Status {
        login: Login::Rejected { username: "alice".into(), link: link() },
        ..steady.clone()
    };
    let stuck = Why {
        room: "nodejs/node".into(),
        wanted_on_gitter: "a member".into(),
        seen_on_gitter: "not a member".into(),
        wanted_here: "open".into(),
        seen_here: "you are invited to it".into(),
        last_error: Some("Gitter answered 503".into()),
        next: Some("in 40 seconds".into()),
    };
    let settled = Why { last_error: None, next: None, ..stuck.clone() };
    insta::assert_snapshot!(transcript(&[
        ("steady", status(&steady)),
        ("busy", status(&busy)),
        ("logged out", status(&out)),
        ("rejected", status(&rejected)),
        ("why, stuck", why(&stuck)),
        ("why, settled", why(&settled)),
    ]));
}

#[test]
fn the_bot_explains_what_it_did_not_understand() {
    let unknown = |nearest| Misunderstood::Unknown { word: "lsit".into(), nearest };
    let given = "a/<b>".to_owned();
    let host = "example.com".to_owned();
    let rows = [
        ("nothing", Misunderstood::Nothing),
        ("too long", Misunderstood::TooLong),
        ("unknown, near", unknown(Some(Verb::List))),
        ("unknown", unknown(None)),
        ("missing", Misunderstood::Missing(Verb::Join)),
        ("too many rooms", Misunderstood::TooMany(Verb::Part)),
        ("too many words", Misunderstood::TooMany(Verb::List)),
        ("too many topics", Misunderstood::TooMany(Verb::Help)),
        ("no room", Misunderstood::NotARoom { verb: Verb::Join, given }),
        ("other site", Misunderstood::OtherSite { verb: Verb::Join, host }),
    ];
    insta::assert_snapshot!(transcript(&rows.map(|(name, why)| (name, misunderstood(&why)))));
}

#[test]
fn what_others_wrote_is_escaped_and_bounded() {
    let hostile = "<b onclick='x'>&\"**{}`\n\u{202E}".to_owned() + &"x".repeat(9000);
    let answer = logged_in(&hostile, "alice", 0, 0);
    assert!(answer.html.contains("<strong>&lt;b onclick=&#39;x&#39;&gt;&amp;&quot;**{}` xx"));
    assert!(answer.body.contains("as <b onclick='x'>&\"**{}` xx"));
    assert!(!answer.body.contains('\u{202E}'));
    assert!(answer.body.len() < 2000 && answer.html.len() < 2000);
}

#[test]
fn the_longest_answers_fit_into_events() {
    let long = "ж<".repeat(500);
    let rooms = vec![listed(&long, &long, true, u32::MAX, u32::MAX); 500];
    let pending = Pending {
        room: long.clone(),
        what: long.clone(),
        why: Some(long.clone()),
        next: Some(long.clone()),
    };
    let busy = Status {
        login: Login::As { username: long.clone(), name: long.clone() },
        gitter_rooms: 500,
        joined: 500,
        invited: 500,
        pending: vec![pending; 500],
        troubles: vec![],
    };
    let names = vec![long.clone(); 500];
    let mut answers = list(&rooms);
    assert!(answers.len() > 1);
    assert_eq!(answers.iter().map(|answer| answer.body.matches("• ").count()).sum::<usize>(), 500);
    answers.extend([status(&busy), rest_of_rooms(20, &names)]);
    for answer in answers {
        // As JSON inside an event: at most 64 KiB with everything around it.
        let size = serde_json::to_string(&(&answer.body, &answer.html)).expect("strings").len();
        assert!(size < 60_000, "{size} bytes: {}", &answer.body[..80]);
    }
}

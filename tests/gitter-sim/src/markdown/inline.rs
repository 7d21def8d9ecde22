//! What Gitter finds in running text: mentions, issues, addresses.

use std::fmt::Write as _;

use linkify::{LinkFinder, LinkKind};
use serde_json::json;

use super::{Mention, Rendered, escape};

/// Opens a link and notes its target.
pub(super) fn link_start(url: &str, out: &mut Rendered) -> String {
    let escaped = escape(url);
    out.urls.push(json!({"url": escaped}));
    if url.starts_with("mailto:") {
        return format!("<a href=\"{escaped}\" rel=\"nofollow\">");
    }
    format!(
        "<a href=\"{escaped}\" rel=\"nofollow noopener noreferrer\" target=\"_blank\" \
         class=\"link \">"
    )
}

/// Appends text that is not code; inside a link (`linking` false) addresses stay text.
pub(super) fn text(text: &str, linking: bool, out: &mut Rendered) {
    if !linking {
        out.html.push_str(&escape(text));
        return;
    }
    let mut finder = LinkFinder::new();
    finder.kinds(&[LinkKind::Url, LinkKind::Email]).url_must_have_scheme(true);
    let mut before = None;
    for span in finder.spans(text) {
        let part = span.as_str();
        match span.kind() {
            Some(LinkKind::Email) => link(&format!("mailto:{part}"), part, out),
            Some(LinkKind::Url) if tracker(part, out) => {}
            Some(LinkKind::Url) if part.starts_with("http") => link(part, part, out),
            _ => words(part, before, out),
        }
        before = part.chars().last();
    }
}

/// Issues, merge and pull requests and commits at GitHub and GitLab by their address: a short
/// text, and among the issues (commits excepted) instead of the urls.
fn tracker(url: &str, out: &mut Rendered) -> bool {
    let Some((host, path)) = url.split_once("://").and_then(|(_, rest)| rest.split_once('/'))
    else {
        return false;
    };
    let provider = match host {
        "github.com" => "github",
        "gitlab.com" => "gitlab",
        _ => return false,
    };
    let parts: Vec<&str> = path.split('/').filter(|p| *p != "-").collect();
    let [owner, name, kind, id] = parts[..] else { return false };
    let (kind, sign) = match kind {
        "issues" => ("issue", '#'),
        "pull" => ("pr", '#'),
        "merge_requests" => ("mr", '!'),
        "commit" => ("commit", '@'),
        _ => return false,
    };
    let digits = id.bytes().all(|b| b.is_ascii_digit());
    let hex = id.bytes().all(|b| b.is_ascii_hexdigit());
    if id.is_empty() || (kind == "commit" && !hex) || (kind != "commit" && !digits) {
        return false;
    }
    let repo = escape(&format!("{owner}/{name}"));
    let short = if kind == "commit" { &id[..id.len().min(7)] } else { id };
    if kind != "commit" {
        out.issues.push(json!({"number": id, "repo": repo}));
    }
    let _ = write!(
        out.html,
        "<a href=\"{}\" target=\"_blank\" data-link-type=\"{kind}\" data-issue=\"{id}\" \
         data-issue-repo=\"{repo}\" data-provider=\"{provider}\" class=\"{kind}\">\
         {repo}{sign}{short}</a>",
        escape(url)
    );
    true
}

fn link(url: &str, label: &str, out: &mut Rendered) {
    let start = link_start(url, out);
    out.html.extend([&start, escape(label).as_str(), "</a>"]);
}

/// Walks text without addresses, except those that begin with `www.`
fn words(text: &str, mut before: Option<char>, out: &mut Rendered) {
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let fresh = before.is_none_or(|b| !b.is_alphanumeric() && b != '_' && b != '/');
        let taken = match c {
            '@' if fresh => mention(rest, out),
            '#' if fresh => issue(rest, None, out),
            'w' if fresh => www(rest, out),
            c if fresh && c.is_alphanumeric() => repo_issue(rest, out),
            _ => 0,
        };
        if taken == 0 {
            out.html.push_str(&escape(c.encode_utf8(&mut [0; 4])));
            rest = &rest[c.len_utf8()..];
            before = Some(c);
        } else {
            before = rest[..taken].chars().last();
            rest = &rest[taken..];
        }
    }
}

/// Length of the mention at the start of `rest`, or 0.
fn mention(rest: &str, out: &mut Rendered) -> usize {
    if rest.starts_with("@/all") {
        out.mentions.push(Mention { name: "all".into(), group: true });
        out.html.push_str(
            "<span data-link-type=\"groupmention\" data-group-name=\"all\" \
             class=\"groupmention\">@/all</span>",
        );
        return 5;
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-.:[]".contains(c);
    let end = rest[1..].find(|c| !is_part(c)).map_or(rest.len(), |i| i + 1);
    let name = rest[1..end].trim_end_matches(['.', ':', '-', '_', '[', ']']);
    if name.is_empty() {
        return 0;
    }
    out.mentions.push(Mention { name: name.into(), group: false });
    let _ = write!(
        out.html,
        "<span data-link-type=\"mention\" data-screen-name=\"{name}\" class=\"mention\">@{name}\
         </span>"
    );
    1 + name.len()
}

fn issue(rest: &str, repo: Option<&str>, out: &mut Rendered) -> usize {
    let prefix = repo.map_or(0, str::len);
    let digits = rest[prefix + 1..].bytes().take_while(u8::is_ascii_digit).count();
    let end = prefix + 1 + digits;
    if digits == 0 || rest[end..].starts_with(|c: char| c.is_alphanumeric()) {
        return 0;
    }
    let (number, label) = (&rest[prefix + 1..end], &rest[..end]);
    let (attribute, value) = match repo {
        Some(repo) => {
            (format!(" data-issue-repo=\"{repo}\""), json!({"number": number, "repo": repo}))
        }
        None => (String::new(), json!({"number": number})),
    };
    out.issues.push(value);
    let _ = write!(
        out.html,
        "<a target=\"_blank\" data-link-type=\"issue\" data-issue=\"{number}\"{attribute} \
         class=\"issue\">{label}</a>"
    );
    end
}

fn repo_issue(rest: &str, out: &mut Rendered) -> usize {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    let repo = &rest[..end];
    if rest[end..].starts_with('#') && repo.matches('/').count() >= 1 && !repo.ends_with('/') {
        return issue(rest, Some(repo), out);
    }
    0
}

fn www(rest: &str, out: &mut Rendered) -> usize {
    if !rest.starts_with("www.") {
        return repo_issue(rest, out);
    }
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let address = rest[..end].trim_end_matches(['.', ',', ':', ';', '!', '?', ')']);
    if address.matches('.').count() < 2 {
        return 0;
    }
    link(&format!("http://{address}"), address, out);
    address.len()
}

"""The two pages for people: what this is, and the API. They load nothing from other hosts."""

from __future__ import annotations

import html
from typing import Any

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}
body{color:#1b2430}h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
code,pre{font:14px/1.45 ui-monospace,monospace}
pre{background:#f3f5f8;padding:.8rem;overflow:auto;border-radius:6px}
table{border-collapse:collapse}
td,th{text-align:left;padding:.25rem 1rem .25rem 0;border-bottom:1px solid #e3e7ec}
details{border:1px solid #dde3ea;border-radius:6px;margin:.5rem 0;padding:.4rem .8rem}
summary{cursor:pointer}summary b{display:inline-block;min-width:4rem;color:#0b5cad}a{color:#0b5cad}
.muted{color:#5c6875}
"""

_DOCS_SCRIPT = """
const show = (tag, text, parent) => {
  const e = document.createElement(tag); e.textContent = text; parent.append(e); return e;
};
const json = (value, parent) => show('pre', JSON.stringify(value, null, 2), parent);
const body = (title, content, parent) => {
  const media = content && (content['application/json'] || Object.values(content)[0]);
  if (!media) return;
  show('h4', title + ' (' + Object.keys(content).join(', ') + ')', parent);
  const examples = media.examples ?? (media.example ? {'': {value: media.example}} : {});
  for (const [name, example] of Object.entries(examples)) {
    show('div', 'Example ' + name.replaceAll('_', ' '), parent); json(example.value, parent);
  }
  if (media.schema) {
    const more = document.createElement('details'); show('summary', 'Schema', more);
    json(media.schema, more); parent.append(more);
  }
};
const operation = (path, verb, op, parent) => {
  const item = document.createElement('details'); item.id = op.operationId ?? '';
  const head = document.createElement('summary'); item.append(head);
  show('b', verb.toUpperCase(), head); show('code', path, head);
  show('span', '  ' + (op.summary ?? ''), head);
  if (op.description) show('p', op.description, item);
  for (const p of op.parameters ?? []) {
    const need = p.required ? ' (required): ' : ': ';
    show('p', p.in + ' parameter ' + p.name + need + (p.description ?? ''), item);
  }
  if (op.requestBody) body('Request', op.requestBody.content, item);
  for (const [status, reply] of Object.entries(op.responses ?? {}))
    body('Reply ' + status + ': ' + (reply.description ?? ''), reply.content, item);
  parent.append(item);
};
fetch('openapi.json').then(r => r.json()).then(api => {
  const root = document.getElementById('api'); const tags = {};
  for (const [path, verbs] of Object.entries(api.paths))
    for (const [verb, op] of Object.entries(verbs)) {
      const tag = op.tags?.[0] ?? 'other';
      if (!tags[tag]) {
        tags[tag] = document.createElement('section');
        show('h2', tag, tags[tag]); root.append(tags[tag]);
      }
      operation(path, verb, op, tags[tag]);
    }
});
"""


def home_page(info: dict[str, Any]) -> str:
    """The page at `/`: what the server is, what it serves now, where to read on."""
    model = info["model"]
    rows = "".join(
        f"<tr><td>{html.escape(robot['robot'])}"
        f"{' (default)' if robot['robot'] == info['default_robot'] else ''}</td>"
        f"<td>{robot['w_version']}</td><td><code>{html.escape(robot['w_sha256'][:12])}</code></td></tr>"
        for robot in info["robots"]
    )
    notices = "".join(
        f"<p><b>{html.escape(robot['robot'])}</b>: {html.escape(robot['notice'])}</p>"
        for robot in info["robots"]
        if robot["notice"]
    )
    content = (
        "<h1>selfalign server</h1>"
        "<p>A robot policy that aligns itself to the robot it runs on. Controllers send "
        "observations to <code>POST /act</code> and receive chunks of actions; after some seconds "
        "of play, <code>POST /align</code> improves the fast weights W of this robot, without "
        "labels and without a pause.</p>"
        f"<p>Version {html.escape(info['version'])}, model <b>{html.escape(model['variant'])}</b> "
        f"({html.escape(model['flavour'])}, {model['parameters']:,} parameters, base "
        f"<code>{html.escape(model['base_sha256'][:12])}</code>).</p>"
        "<h2>Robots</h2><table><tr><th>robot</th><th>active W</th><th>sha256</th></tr>"
        f"{rows}</table>{notices}"
        "<h2>Read on</h2><ul>"
        '<li><a href="docs">/docs</a>: every route, with examples '
        '(<a href="openapi.json">/openapi.json</a> for programs)</li>'
        '<li><a href="info">/info</a>: this, for programs</li>'
        '<li><a href="w">/w</a>, <a href="align">/align</a>, <a href="play">/play</a>: versions of '
        "W, alignment sessions, recorded play</li>"
        '<li><a href="metrics">/metrics</a>, <a href="healthz">/healthz</a>, '
        '<a href="readyz">/readyz</a>: for supervisors</li>'
        "<li>As a websocket, this very address speaks the openpi protocol.</li></ul>"
    )
    return _page("selfalign server", content)


def docs_page() -> str:
    """The page at `/docs`: it reads `/openapi.json` and lists what is there."""
    content = (
        "<h1>selfalign server: the API</h1>"
        '<p class="muted">Errors are <code>application/problem+json</code> (RFC 9457); branch on '
        "their <code>code</code>. Websockets are not part of OpenAPI: <code>/</code> (openpi), "
        "<code>/act/stream</code> and <code>/play</code> are described in "
        "<code>docs/protocols.md</code>.</p>"
        f'<div id="api"></div><script>{_DOCS_SCRIPT}</script>'
    )
    return _page("selfalign server: API", content)


def _page(title: str, content: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{_STYLE}</style></head>'
        f"<body>{content}</body></html>"
    )

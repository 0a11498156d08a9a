"""How report.html looks: on a screen, on a phone, in the dark and on paper."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #5b5f66; --line: #d5d8dd; --paper: #fff; --tint: #f2f5f8;
  --mark: #00558a; --warn: #9a3b00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e7e9; --soft: #a5abb3; --line: #3d434b; --paper: #15181c;
  --tint: #1f242a; --mark: #7cc0ee; --warn: #ffab70; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1rem clamp(0.8rem, 3vw, 2rem) 3rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.6rem 0; }
h2 { font-size: 1.3rem; margin: 2.4rem 0 0.6rem; padding-bottom: 0.2rem; border-bottom: 2px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.8rem 0 0.4rem; }
.research { font-weight: 600; color: var(--warn); }
.answer { background: var(--tint); border-left: 4px solid var(--mark); padding: 0.3rem 1rem; font-size: 1.05rem; }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1.1rem; margin-top: 1rem; }
a { color: var(--mark); }
.warning { color: var(--warn); margin: 0.3rem 0; }
summary { cursor: pointer; }
details ul { margin-top: 0.3rem; font-size: 0.92rem; }
.note, figcaption, .caption, dt { color: var(--soft); }
.caption { margin: 1.1rem 0 0.2rem; font-size: 0.92rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; overflow-wrap: break-word; }
th, td { padding: 0.3rem 1rem 0.3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { font-weight: 600; vertical-align: bottom; max-width: 10rem; }
tbody th { font-weight: 600; max-width: 15rem; position: sticky; left: 0; background: var(--paper); }
td { max-width: 30rem; }
.finding td, small { white-space: nowrap; }
small { display: block; font-size: 0.82em; color: var(--soft); }
.over { font-weight: 400; padding-left: 0.8rem; display: block; }
code { font-family: ui-monospace, monospace; font-size: 0.9em; overflow-wrap: anywhere; }
td code { overflow-wrap: break-word; }
td .hash { display: block; width: 18rem; overflow-wrap: anywhere; }
dl { margin: 0.6rem 0; }
dt { font-size: 0.9rem; margin-top: 0.5rem; }
dd { margin: 0; }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
@media (min-width: 50rem) { dl { display: grid; grid-template-columns: 13rem 1fr; gap: 0.35rem 1rem; }
  dt { margin: 0; } }
@media (max-width: 50rem) { body { font-size: 15px; } img { max-width: none; } tbody th { max-width: 9rem; } }
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --tint: #fff; --mark: #000;
    --warn: #000; }
  nav { display: none; }
  details::details-content { content-visibility: visible; height: auto; }
  body { font-size: 10pt; }
  .scroll { overflow: visible; }
  img { max-width: 100%; }
  table { font-size: 8pt; }
  tbody th { position: static; }
  th, td { padding-right: 0.6rem; }
  .finding td, small { white-space: normal; }
  td .hash { width: 11rem; }
  tr, figure, h2, h3 { break-inside: avoid; }
  h2, h3, .caption { break-after: avoid; }
}
"""

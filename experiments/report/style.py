"""How the pages look: on paper, on a phone, in light and in dark."""

CSS = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1d2024; --soft: #565b61;
  --line: #d9dce0; --wash: #f4f5f7; --alarm: #9a5b00; --empty: #d9dce0;
  --link: #0a5fa8; }
@media (prefers-color-scheme: dark) { :root { --ground: #15171a; --ink: #e6e8ea;
  --soft: #a9afb6; --line: #34383d; --wash: #1f2226; --alarm: #f0b35a;
  --empty: #34383d; --link: #7cc0f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 3rem; max-width: 66rem; background: var(--ground);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .2rem; }
h3 { font-size: 1rem; margin: 0 0 .3rem; }
p { margin: .3rem 0 .7rem; max-width: 46rem; color: var(--soft); }
p.notice { color: var(--ink); border-left: 4px solid var(--alarm); background: var(--wash);
  padding: .6rem .8rem; max-width: none; }
.scroll { overflow-x: auto; border-block: 1px solid var(--line); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
.scroll > table { min-width: 100%; overflow-wrap: normal; }
th, td { padding: .38rem .7rem; text-align: right; white-space: nowrap; }
tbody th { white-space: normal; overflow-wrap: break-word; }
table.texts td, table.texts th { text-align: left; white-space: normal; min-width: 6.5rem; }
table.texts > * > tr > * { vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom;
  line-height: 1.25; border-bottom: 1px solid var(--line); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--ground); }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--soft); }
table.facts { width: 100%; margin: .5rem 0; }
table.facts th, table.facts td { text-align: left; white-space: normal; vertical-align: top;
  font-weight: 400; padding: .25rem .7rem .25rem 0; position: static; }
table.facts th { color: var(--soft); width: 42%; }
.grid { display: grid; gap: 1rem 1.6rem; margin-top: .6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.grid > figure, .grid > section { max-width: 34rem; }
figure, .grid > section { margin: 0; min-width: 0; }
figure > svg { display: block; width: 100%; height: auto; color: var(--soft); }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
ul.legend { display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; list-style: none; padding: 0;
  margin: .5rem 0 .3rem; font-size: .92rem; }
ul.legend svg { width: 2.1rem; height: .75rem; margin-right: .4rem; color: var(--soft); }
h4 { font-size: .85rem; font-weight: 600; color: var(--soft); margin: 0 0 .2rem; }
.frames { display: grid; grid-template-columns: repeat(6, 1fr); gap: .4rem; }
.strip figcaption { font-size: .75rem; color: var(--soft); text-align: center; }
.strip img { display: block; width: 100%; image-rendering: pixelated; background: var(--empty); }
.film .strip img { aspect-ratio: 1; }
.scale { display: flex; flex-wrap: wrap; align-items: center; gap: 0 .4rem; color: var(--soft);
  font-size: .78rem; white-space: nowrap;
  margin: .35rem 0 .8rem; font-variant-numeric: tabular-nums; }
.scale i { height: .55rem; width: 7rem; }
.scale b { height: .75rem; width: .75rem; background: var(--empty); margin-left: .8rem; }
.scale .end { margin-left: auto; text-align: right; }
@media (max-width: 30rem) { .frames { grid-template-columns: repeat(3, 1fr); }
  .scale i { width: 4rem; } .scroll th, .scroll td { padding: .35rem .45rem; font-size: .82rem; } }
.player { display: none; }
@media screen and (prefers-reduced-motion: no-preference) {
  .player { display: inline-block; color: var(--soft); font-size: .92rem; padding: .3rem 0; }
  section:has(> .player :checked) .strip { overflow: hidden; width: 11rem; }
  section:has(> .player :checked) .frames { display: flex; gap: 0; width: calc(var(--n) * 100%);
    animation: film calc(var(--n) * .8s) steps(var(--n)) infinite; }
  section:has(> .player :checked) .frames > figure { flex: 1 0 0; }
}
@keyframes film { to { transform: translateX(-100%); } }
nav { margin: .8rem 0; font-size: .92rem; display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
a { color: var(--link); }
@media print { details > * { display: block; } }
"""

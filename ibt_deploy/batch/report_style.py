"""How the report page looks: light, dark and on paper."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--page:#fbfaf8;--ink:#1c2321;--soft:#5d6863;--line:#dcdfda;--mark:#1f6f5c;
--warn:#8a4b08;--warnpage:#fdf3e3}
@media (prefers-color-scheme:dark){:root{--page:#14191a;--ink:#e6ebe8;--soft:#9aa7a1;--line:#2c3534;
--mark:#5cc4a5;--warn:#f0b768;--warnpage:#2b2317}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:62rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:.1rem 0 .8rem;letter-spacing:-.01em}
h2{font-size:1.2rem;margin:2.6rem 0 .5rem}
p{max-width:46rem;margin:.4rem 0 1rem}
.eyebrow{margin:0;color:var(--soft);font-size:.9rem}
.notice{display:inline-block;margin:0;padding:.35rem .8rem;border-radius:.4rem;background:var(--warnpage);
color:var(--warn);font-weight:600}
.figures{display:flex;flex-wrap:wrap;gap:1rem 2.5rem;margin-top:1.6rem;padding:1.1rem 0;
border-block:1px solid var(--line)}
.figures b{display:block;font-size:1.7rem;line-height:1.2;font-variant-numeric:tabular-nums}
.figures span{color:var(--soft);font-size:.9rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;font-weight:400;padding:.4rem .9rem .4rem 0;border-bottom:1px solid var(--line);
vertical-align:middle}
thead th{color:var(--soft);font-size:.85rem}
.n{text-align:right;white-space:nowrap}
em{color:var(--soft);font-size:.85rem}
code{font:.88em ui-monospace,monospace;overflow-wrap:anywhere}
small{color:var(--soft);font-size:.82rem;overflow-wrap:anywhere}
.findings svg{display:block;width:15rem;height:4rem;max-width:100%}
.bar{display:block;height:.25rem;margin:.15rem 0 0 auto;width:6rem;border-radius:.2rem;
background:linear-gradient(90deg,var(--mark) calc(100%*var(--share)),var(--line) 0)}
figure{margin:1.4rem 0}
figcaption{margin-bottom:.5rem;font-weight:600}
figure svg{width:100%;max-width:46rem;height:auto}
rect{fill:var(--mark)}
path{stroke:var(--soft);stroke-width:1;fill:none}
text{fill:var(--soft);font-size:11px}
.none{color:var(--soft)}
.model th{width:14rem;color:var(--soft)}
@media (max-width:40rem){.findings thead{display:none}.findings tr{display:grid;
grid-template-columns:1fr auto;padding:.5rem 0;border-bottom:1px solid var(--line)}
.findings th,.findings td{border:0;padding:.1rem 0}
.findings th,.findings td:last-child{grid-column:1/-1}}
@media print{:root{--page:#fff;--ink:#000;--soft:#444;--line:#bbb;--mark:#1f6f5c;--warn:#000;--warnpage:#fff}
main{padding:0;max-width:none}body{font-size:11pt}tr,figure{break-inside:avoid}
rect,.bar{print-color-adjust:exact;-webkit-print-color-adjust:exact}.notice{border:1px solid #000}}
""".strip()

"""The style sheet of the report; the colours themselves come from the palettes of the plots."""

from __future__ import annotations

STYLE = """
:root{--ground:#f4f6f8;--surface:#ffffff}
@media(prefers-color-scheme:dark){:root{--ground:#0f1216;--surface:#171b22}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 64px}
header{margin-bottom:20px}
.kicker{margin:0;color:var(--muted);letter-spacing:.06em;text-transform:uppercase;font-size:12px}
h1{margin:2px 0 4px;font-size:28px;line-height:1.2}
h2{margin:0 0 4px;font-size:18px}
header p,section>p{margin:0 0 8px;color:var(--muted)}
section{background:var(--surface);border:1px solid var(--grid);border-radius:12px;padding:18px 20px;margin:0 0 16px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px;background:none;border:0;padding:0}
.tile{background:var(--surface);border:1px solid var(--grid);border-radius:12px;padding:12px 16px;display:grid}
.tile span,.tile small,small{color:var(--muted)}
.tile b{font-size:26px;line-height:1.25;font-variant-numeric:tabular-nums}
.tile.bad b{color:var(--bad)}
.plot{overflow-x:auto}
.plot svg{display:block;width:100%;min-width:640px;height:auto}
.plot text{font-family:inherit}
.scroll{max-height:420px;overflow:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th{position:sticky;top:0;background:var(--surface);text-align:left;color:var(--muted);font-weight:500}
th,td{padding:4px 10px 4px 0;border-bottom:1px solid var(--grid);vertical-align:top}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;width:1%}
td.n,th.n{padding-right:16px}
code{font:13px ui-monospace,SFMono-Regular,Menlo,monospace}
.frames{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:14px;margin-top:8px}
figure{margin:0}
figure img{display:block;width:100%;border-radius:8px;background:#000}
figcaption{font-size:13px;margin-top:4px;overflow-wrap:anywhere}
.credits{margin:14px 0 0;padding-left:18px;font-size:13px;color:var(--muted);overflow-wrap:anywhere}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(310px,1fr));gap:0 28px;margin:6px 0 0;font-size:14px}
.pairs div{display:flex;justify-content:space-between;gap:16px;border-bottom:1px solid var(--grid);padding:4px 0}
.pairs dt{color:var(--muted)}
.pairs dd{margin:0;text-align:right;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
"""

#include "tools/page.h"

#include <nlohmann/json.hpp>

namespace tools::page {
namespace {

const char* const kStyle = R"css(
:root{color-scheme:light dark;--page:#fbfbf9;--text:#1d2126;--soft:#5b646e;--line:#d9dcd8;--card:#fff;--good:#1d7a4d;
--warn:#a15c00;--bad:#b3261e;--link:#1f5fa8;
--d5:#1b4f8f;--d4:#3b76b8;--d3:#6f9fd1;--d2:#a5c4e4;--d1:#d3e2f1;--u0:#eeeeea;--u1:#f9dfc4;--u2:#f3b985;--u3:#e58c4a;
--u4:#c65f1f;--u5:#93400c;--none:#4a4a4a;
--s0:#2f6fb5;--s1:#c65f1f;--s2:#2a8a5f;--s3:#8e4aa8;--s4:#a3782a;--s5:#c23b5e;--s6:#3f8f9e;--s7:#6b6f76}
@media(prefers-color-scheme:dark){:root{--page:#15181c;--text:#e6e8ea;--soft:#9aa4af;--line:#333a42;--card:#1c2025;
--good:#5cc491;--warn:#e8a33d;--bad:#ff8a80;--link:#7fb4ee;
--d5:#8fc0f5;--d4:#629fdf;--d3:#4379b5;--d2:#33598a;--d1:#2a3f5a;--u0:#2b2f34;--u1:#573f2a;--u2:#81532b;--u3:#b3702f;
--u4:#dd9147;--u5:#f7bd80;--none:#000;
--s0:#6aa9ec;--s1:#f09a5b;--s2:#5cc491;--s3:#c58be0;--s4:#d9b25c;--s5:#f0809c;--s6:#6fc3d3;--s7:#a5abb3}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.2rem 1rem 3rem;max-width:70rem;background:var(--page);color:var(--text);
font:15px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.45rem;line-height:1.25;margin:.2rem 0 .6rem;overflow-wrap:anywhere}
h2{font-size:1.12rem;margin:2rem 0 .5rem}h3{font-size:.95rem;margin:1.1rem 0 .3rem}
p{margin:.4rem 0;max-width:58rem}.soft{color:var(--soft);font-size:.88rem}
.verdict{border:1px solid var(--line);border-left:.4rem solid var(--soft);background:var(--card);border-radius:.4rem;
padding:.7rem .9rem;margin:.6rem 0}
.verdict.balanced{border-left-color:var(--good)}.verdict.skewed{border-left-color:var(--warn)}
.verdict.collapsed{border-left-color:var(--bad)}.verdict b{font-size:1.05rem}
.wide{overflow-x:auto;margin:.5rem 0;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.88rem}
th,td{padding:.22rem .7rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:600}th:first-child,td:first-child{text-align:left;padding-left:0}
.beyond{color:var(--warn);font-weight:600}.chance{color:var(--soft)}
ul{padding-left:1.2rem}li{margin:.35rem 0;max-width:58rem}
dl{display:grid;grid-template-columns:minmax(7rem,auto) 1fr;gap:.3rem 1rem;font-size:.88rem;max-width:62rem}
dt{font-weight:600}dd{margin:0;color:var(--soft)}
@media(max-width:36rem){dl{grid-template-columns:1fr;gap:.1rem}dd{margin-bottom:.5rem}}
svg{display:block}svg text{fill:var(--soft);font-size:11px;font-family:inherit}
.cell{stroke:var(--page);stroke-width:1}.cell:hover{stroke:var(--text)}
.grid{stroke:var(--line);stroke-width:1}.floor{stroke:var(--soft);stroke-dasharray:4 4}
.curve{fill:none;stroke-width:1.7;stroke-linejoin:round}.dot{fill:transparent;stroke:none}
.dot:hover{stroke:var(--text);stroke-width:1.5}
.legend{display:flex;flex-wrap:wrap;gap:.15rem 1rem;font-size:.82rem;color:var(--soft);margin:.2rem 0}
.legend i{display:inline-block;width:.8rem;height:.8rem;border-radius:.15rem;vertical-align:-.1rem;margin-right:.35rem}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--card);border:1px solid var(--line);border-radius:.4rem;
padding:.6rem .8rem;font-size:.82rem}
#tip{position:fixed;z-index:9;pointer-events:none;background:var(--text);color:var(--page);border-radius:.3rem;
padding:.25rem .5rem;font-size:.82rem;max-width:min(24rem,90vw);white-space:pre-line}
#tip[hidden]{display:none}
)css";

const char* const kScript = R"js(
(function () {
  const tip = document.getElementById('tip');
  function show(event) {
    const on = event.target.closest ? event.target.closest('[data-tip]') : null;
    tip.hidden = !on;
    if (!on) return;
    tip.textContent = on.dataset.tip;
    const wide = tip.offsetWidth, high = tip.offsetHeight;
    tip.style.left = Math.max(4, Math.min(event.clientX + 12, innerWidth - wide - 4)) + 'px';
    tip.style.top = (event.clientY + high + 24 > innerHeight ? event.clientY - high - 10 : event.clientY + 16) + 'px';
  }
  document.addEventListener('pointermove', show);
  document.addEventListener('pointerdown', show);
  document.addEventListener('scroll', function () { tip.hidden = true; }, true);
})();
)js";

// With U+FFFD for what is not UTF-8, such as the bytes of a model that has not learned to spell.
std::string valid_text(const std::string& text) {
  using Json = nlohmann::json;
  return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
}

}  // namespace

std::string escape(const std::string& text) {
  std::string result;
  for (const char c : valid_text(text)) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      case '\'':
        result += "&#39;";
        break;
      default:
        result += static_cast<unsigned char>(c) < 32 && c != '\n' && c != '\t' ? ' ' : c;
    }
  }
  return result;
}

std::string document(const std::string& title, const std::string& body) {
  return "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
         "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
         "script-src 'unsafe-inline'\">\n<title>" +
         escape(title) + "</title>\n<style>" + kStyle + "</style>\n</head>\n<body>\n" + body +
         "\n<div id=\"tip\" role=\"tooltip\" hidden></div>\n<script>" + kScript + "</script>\n</body>\n</html>\n";
}

std::string table(const Table& table) {
  std::string html = "<div class=\"wide\"><table><thead><tr>";
  for (const std::string& name : table.header) html += "<th>" + name + "</th>";
  html += "</tr></thead><tbody>\n";
  for (const std::vector<std::string>& row : table.rows) {
    html += "<tr>";
    for (const std::string& cell : row) html += "<td>" + cell + "</td>";
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

}  // namespace tools::page

#!/bin/sh
# Makes .dvc/offline/page.html, the page of `dvc plots show` and `dvc plots diff`. It holds the JavaScript that DVC's own
# page loads from a CDN, so that the charts are drawn without network. Needs npm. Run it when a new DVC needs other
# versions of the packages (tests/project/test_plots.py fails then); VEGA="vega@... vega-lite@... vega-embed@..." sets them.
set -eu
cd "$(dirname "$0")/../.dvc/offline"
VEGA=${VEGA:-vega@5.20.2 vega-lite@5.2.0 vega-embed@6.18.2}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{
    printf '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{refresh_tag}\n<title>DVC plots</title>\n'
    printf '<style>body { font-family: system-ui, sans-serif; margin: 16px } table { border-spacing: 15px } body > div { margin-bottom: 24px; overflow-x: auto }</style>\n'
    for package in $VEGA; do
        name=${package%@*}
        (cd "$work" && npm pack --silent "$package" >/dev/null && mkdir "$name" && tar xzf "$name"-[0-9]*.tgz -C "$name")
        cp "$work/$name/package/LICENSE" "LICENSE.$name"
        printf '<!-- %s, licence: LICENSE.%s -->\n<script>\n' "$package" "$name"
        sed '/^\/\/# sourceMappingURL=/d' "$work/$name/package/build/$name.min.js"
        printf '\n</script>\n'
    done
    printf '</head>\n<body>\n{plot_divs}\n</body>\n</html>\n'
} >"$work/page.html"
mv "$work/page.html" page.html

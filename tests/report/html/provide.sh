#!/bin/sh
# Installs what the browser tests of the page need: Chromium from the system's packages, and
# Playwright with axe-core into the Python given as the first argument (default: python3).
# Runs as root on Debian 12; running it again changes nothing.
set -eu
python=${1:-python3}

if ! command -v chromium-headless-shell >/dev/null && ! command -v chromium >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        chromium-headless-shell
fi
if ! "$python" -c 'import playwright, axe_playwright_python' 2>/dev/null; then
    "$python" -m pip install -q 'playwright>=1.50' 'axe-playwright-python>=0.1.5'
fi

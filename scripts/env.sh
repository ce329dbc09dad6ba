# Shared by scripts/demo and scripts/test: finds a Python >= 3.11, makes and reuses .venv, installs the package.
# Usage: . scripts/env.sh EXTRAS   (e.g. "fits,plot" or "dev"). PYTHON=/path/to/python and VENV=folder override.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$top/.venv}

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "calib-gpu needs Python 3.11 or newer: install one, or set PYTHON=/path/to/python" >&2
  return 1
}

install() {
  local extras=$1 stamp="$venv/.installed-$1"
  if [ ! -x "$venv/bin/python" ]; then
    local python
    python=$(find_python) || exit 1
    echo "== making $venv with $("$python" --version)"
    "$python" -m venv "$venv" || exit 1
  fi
  if [ ! -f "$stamp" ] || [ "$top/pyproject.toml" -nt "$stamp" ]; then
    echo "== installing calib-gpu[$extras] into $venv (from the package index)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$top[$extras]" || exit 1
    touch "$stamp"
  else
    echo "== using $venv"
  fi
}

install "$1"

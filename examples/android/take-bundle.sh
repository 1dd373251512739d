#!/bin/sh
# take-bundle.sh BUNDLE: copies what the app needs of a bundle into this project, in place of what an earlier one left: files that
# are read at run time into the assets, and the sample's sources, which are compiled with the app.
set -eu
[ $# -eq 1 ] || { echo "usage: take-bundle.sh BUNDLE" >&2; exit 2; }
bundle=${1%/} here=$(cd "$(dirname "$0")" && pwd)
sources=$bundle/samples/kotlin
for needed in "$sources/OnnxModel.kt" "$sources/LiteRtModel.kt" "$bundle/vocab.txt"; do
    [ -f "$needed" ] || {
        echo "$needed is not there: this app takes a bundle made with --runtime both, of a WordPiece tokenizer" >&2
        exit 1
    }
done
assets=$here/app/src/main/assets/bundle code=$here/app/src/main/kotlin/edgebert/sample
rm -rf "$assets" "$code"
mkdir -p "$assets/samples" "$code"
cp "$bundle/labels.json" "$bundle/vocab.txt" "$bundle"/golden*.json "$assets/"
cp "$bundle/samples/app.json" "$assets/samples/"
for model in "$bundle"/model*.onnx "$bundle"/model*.onnx.data "$bundle"/model*.tflite; do
    [ ! -f "$model" ] || cp "$model" "$assets/"
done
for source in "$sources"/*.kt "$sources"/android/*.kt; do
    [ "${source##*/}" = Main.kt ] || cp "$source" "$code/"  # Main.kt is a command for a JVM
done
echo "taken from $bundle:" && du -sh "$assets" | cut -f1

#!/bin/sh
# take-bundle.sh BUNDLE: copies what the package needs of a bundle, in place of what an earlier one left: files that are read at run
# time into the target's resources, and the sample's sources, which are compiled with it.
set -eu
[ $# -eq 1 ] || { echo "usage: take-bundle.sh BUNDLE" >&2; exit 2; }
bundle=${1%/} here=$(cd "$(dirname "$0")" && pwd)
sources=$bundle/samples/swift
for needed in "$sources/OnnxModel.swift" "$bundle/vocab.txt"; do
    [ -f "$needed" ] || {
        echo "$needed is not there: this package takes a bundle with an ONNX file, of a WordPiece tokenizer" >&2
        exit 1
    }
done
target=$here/Sources/BundleKit
rm -rf "$target/bundle" "$target/Sample"
mkdir -p "$target/bundle/samples" "$target/Sample"
cp "$bundle/labels.json" "$bundle/vocab.txt" "$bundle"/golden*.json "$target/bundle/"
cp "$bundle/samples/app.json" "$target/bundle/samples/"
for model in "$bundle"/model*.onnx "$bundle"/model*.onnx.data; do
    [ ! -f "$model" ] || cp "$model" "$target/bundle/"
done
for source in WordPiece Classifier OnnxModel OperatingPoint Golden; do
    cp "$sources/$source.swift" "$target/Sample/"
done
echo "taken from $bundle:" && du -sh "$target/bundle" | cut -f1

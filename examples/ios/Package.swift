// swift-tools-version:5.9
import PackageDescription

// ONNX Runtime's package has binaries for Apple's systems alone. Elsewhere texts become tokens, and no answers.
var dependencies: [Package.Dependency] = []
var runtime: [Target.Dependency] = []
#if os(macOS)
dependencies.append(.package(url: "https://github.com/microsoft/onnxruntime-swift-package-manager", from: "1.20.0"))
runtime.append(.product(name: "onnxruntime", package: "onnxruntime-swift-package-manager"))
#endif

let package = Package(
    name: "BundleKit",
    platforms: [.iOS(.v16), .macOS(.v13)],
    products: [.library(name: "BundleKit", targets: ["BundleKit"])],
    dependencies: dependencies,
    targets: [
        // Sample/ and bundle/ are what take-bundle.sh copies.
        .target(name: "BundleKit", dependencies: runtime, resources: [.copy("bundle")]),
        .testTarget(name: "BundleKitTests", dependencies: ["BundleKit"]),
    ]
)

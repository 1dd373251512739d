import XCTest

@testable import BundleKit

/// The bundle in this package, on the machine that runs `swift test`: on a Mac or a simulator logits too, elsewhere ids alone.
final class GoldenTests: XCTestCase {
    func testEveryPointAnswersAsItsGoldenRows() async throws {
        let labeller = try Labeller()
        for point in 1...labeller.points {
            let (said, fault) = try await labeller.checkGolden(point: point)
            XCTAssertNil(fault)
            XCTAssertNotNil(said)
        }
    }

    func testATextIsAnsweredOrTheRuntimeIsMissed() async throws {
        let labeller = try Labeller()
        let ids = try await labeller.tokens("play some jazz")
        XCTAssertGreaterThan(ids.count, 2)
        do {
            let found = try await labeller.label("play some jazz", point: 1)
            XCTAssertFalse(found.answers.isEmpty)
            XCTAssertGreaterThan(found.milliseconds, 0)
        } catch LabellerError.noRuntime {
            throw XCTSkip("no ONNX Runtime for Swift on this system")
        }
    }

    func testAPointThatIsNotThereIsRefused() async throws {
        let labeller = try Labeller()
        do {
            _ = try await labeller.label("a", point: labeller.points + 1)
            XCTFail("it was not refused")
        } catch LabellerError.noPoint(let point) {
            XCTAssertEqual(point, labeller.points + 1)
        }
    }
}

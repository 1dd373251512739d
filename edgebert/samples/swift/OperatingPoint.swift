import Foundation

/// Which operating point to run of so many, 1 the largest: a step down for each degree of heat, and one to save the battery.
/// heat: 0 as usual, 1 the system throttles, 2 it is about to stop. saving: low battery, or power-saving mode.
func pointFor(points: Int, heat: Int, saving: Bool) -> Int {
    min(points, 1 + heat + (saving ? 1 : 0))
}

#if canImport(Darwin)
/// What the system says now: ask again before each call, or at thermalStateDidChangeNotification.
func pointForThisDevice(points: Int, process: ProcessInfo = .processInfo) -> Int {
    let heat: Int
    switch process.thermalState {
    case .nominal, .fair: heat = 0
    case .serious: heat = 1
    default: heat = 2
    }
    if #available(iOS 9.0, macOS 12.0, *) {
        return pointFor(points: points, heat: heat, saving: process.isLowPowerModeEnabled)
    }
    return pointFor(points: points, heat: heat, saving: false)
}
#endif

"""From scenes to shards: scenes, renderers, viewpoints, co-visibility, pairs.

World axes are Y-up, camera axes OpenCV (x right, y down, z forward), lengths are metres and
transforms are 4x4 rigid float64 matrices that read right to left:
``points_world = world_from_camera @ points_camera``.

Array legend: V vertices, F faces, H height, W width, N rays, points or samples.
"""

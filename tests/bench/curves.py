"""A drawing of some curves as SVG: numbers of things from left to right, each ten times the one before."""
import html
import math

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 360, 60, 40, 200, 40
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")


def place(x):
    """0 has a place of its own, left of 1."""
    return math.log10(x) + 1 if x > 0 else 0


def draw(path, title, things, series):
    """SERIES: name → [(how many, value)…]."""
    points = [point for values in series.values() for point in values]
    most, right = max(value for _, value in points) * 1.1 or 1, max(place(x) for x, _ in points) or 1

    def at(x, y):
        return LEFT + (WIDTH - LEFT - RIGHT) * place(x) / right, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / most

    def text(x, y, words, anchor="middle"):
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(str(words))}</text>'

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', text(WIDTH / 2, 20, title),
             text((WIDTH - RIGHT + LEFT) / 2, HEIGHT - 6, things)]
    for x in sorted({x for x, _ in points}):
        parts.append(text(at(x, 0)[0], HEIGHT - BOTTOM + 16, x))
    for step in range(5):
        y = most * step / 4
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at(0, y)[1]:.1f}" y2="{at(0, y)[1]:.1f}" stroke="#ddd"/>')
        parts.append(text(LEFT - 6, at(0, y)[1] + 4, f"{y:.3g}", "end"))
    for number, (name, values) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in values)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{at(*point)[0]:.1f}" cy="{at(*point)[1]:.1f}" r="3" fill="{colour}"/>' for point in values]
        parts.append(f'<text x="{WIDTH - RIGHT + 12}" y="{TOP + 18 * number}" fill="{colour}">{html.escape(name)}</text>')
    path.write_text("\n".join(parts + ["</svg>"]) + "\n")

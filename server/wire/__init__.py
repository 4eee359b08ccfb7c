"""The wire format, shared by the server and its clients.

Light on purpose: numpy, msgpack, pydantic and Pillow only. It knows no torch, no
fastapi and nothing of `selfalign`, so that a robot controller can import it.

- `server.wire.codec`: bytes <-> plain values, msgpack and JSON, with numpy arrays inside
- `server.wire.images`: camera images, raw or encoded, checked before they are decoded
- `server.wire.messages`: what is asked and answered on `/act`, `/play`, `/robots` and `/info`
- `server.wire.operator`: what is asked and answered on `/align` and `/w`
- `server.wire.problems`: the errors, as RFC 9457 problem details
"""

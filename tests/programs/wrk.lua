-- Judges each answer of a server whose one page is known.
function setup(thread)
  thread:set("expected", string.rep("a page of nginx\n", 500))
end

function response(status, headers, body)
  if status ~= 200 or body ~= expected then
    print("wrong answer: " .. status .. ", " .. #body .. " bytes")
  end
end
